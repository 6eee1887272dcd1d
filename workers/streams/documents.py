"""Contexts of documents that are run apart from each other, so that each is run only once.

Joint, a context is one text: every document sees those before it. Concatenated, each document is
run alone after the head (bos, where the context begins with it), at the same positions as every
other, and what ends the context (the prompt) sees them all; its positions follow the longest
document's. So the keys and values of a document are the same in whatever context it stands, and
are kept by content ("parallel context windows", Ratner et al., arXiv 2212.10947):

    bos │ document A │ document B │ prompt, then what is generated
    0     1 … a        1 … b        1 + max(a, b) …
            sees bos     sees bos     sees all to its left

That is exactly one forward over the whole context with those positions and that mask; with one
document it is the joint context itself. Layers with a sliding window tell by positions what is
seen, which no longer works: models that have them run contexts joint.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from workers.models.attention import Scoring, additive, attend

Ids = tuple[int, ...]
Layers = Mapping[int, tuple[Tensor, Tensor]]  # keys and values, (kv heads, tokens, size) each


@dataclass(frozen=True)
class Context:
    """What rows go on from. ids: all of its tokens. spans: lengths of the documents that it begins
    with and that are run apart; none: it is joint. head: tokens before the first document's own."""

    ids: Ids
    spans: Ids = ()
    head: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def texts(self) -> list[Ids]:
        """What is run apart: the head, if there is one, and each document after it."""
        head, ends = self.ids[: self.head], list(accumulate(self.spans))
        starts = [self.head, *ends[:-1]]
        pieces = [(*head, *self.ids[a:b]) for a, b in zip(starts, ends, strict=True)]
        return [head, *pieces] if head else pieces

    @property
    def tail(self) -> Ids:
        """What sees all documents."""
        return self.ids[sum(self.spans) :]

    @property
    def end(self) -> int:
        """The position of what comes next."""
        if not self.spans:
            return len(self.ids)
        return max(map(len, self.texts)) + len(self.tail)


def apart(ids: Ids, spans: Sequence[int], bos: Iterable[int]) -> Context:
    """A context whose documents are run apart; joint where there is nothing to run apart: fewer
    than two documents, one that is empty but for the head, or nothing after them."""
    head = int(bool(ids) and ids[0] in bos)
    context = Context(ids, tuple(spans), head)
    empty = any(span < 1 for span in (spans[0] - head, *spans[1:])) if spans else True
    return Context(ids) if empty or len(spans) < 2 or sum(spans) >= len(ids) else context


class DocumentCache:
    """Keys and values of documents by content, those not used for longest dropped first."""

    def __init__(self, budget: int = 2**28) -> None:
        """budget: bytes that are held at most, the device's."""
        self.budget = budget
        self.bytes = 0
        self._kept: OrderedDict[Ids, Layers] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Ids) -> Layers | None:
        """What was kept for these tokens (the head's among them), if it still is."""
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: Ids, layers: Layers) -> None:
        """Keep a document's layers if they fit into the budget at all."""
        size = _bytes(layers)
        if size > self.budget or key in self._kept:
            return
        self._kept[key] = layers
        self.bytes += size
        while self.bytes > self.budget:
            self.bytes -= _bytes(self._kept.popitem(last=False)[1])

    def clear(self) -> None:
        """Drop all."""
        self._kept.clear()
        self.bytes = 0


class Tails:
    """A forward over what follows documents that have been run, one context in each row."""

    def __init__(self, contexts: Sequence[Context], found: Mapping[Ids, Layers]) -> None:
        """found: layers of each text of these contexts."""
        self._parts = [[found[text] for text in context.texts] for context in contexts]
        self._before = torch.tensor([sum(context.spans) for context in contexts])
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> Tensor:
        """Each token sees all documents of its row, and what is before it in the tail."""
        before = self._before.to(key.device)
        columns = before[:, None] + torch.arange(key.shape[2], device=key.device)
        width = int(self._before.max()) + key.shape[2]
        joined = self._joined(layer, 0, key, width), self._joined(layer, 1, value, width)
        for buffer, new in zip(joined, (key, value), strict=True):
            rows = torch.arange(len(new), device=new.device)[:, None]
            buffer.transpose(1, 2)[rows, columns] = new.transpose(1, 2)
        self.layers[layer] = joined
        seen = torch.arange(width, device=key.device) <= columns[:, :, None]
        return attend(query, *joined, scoring, additive(seen)[:, None, None])

    def _joined(self, layer: int, which: int, like: Tensor, width: int) -> Tensor:
        """(n, kv heads, width, size): each row's documents, one after the other, then zeros."""
        buffer = like.new_zeros(len(like), like.shape[1], width, like.shape[3])
        for row, parts in enumerate(self._parts):
            joined = torch.cat([part[layer][which] for part in parts], dim=1)
            buffer[row, :, : joined.shape[1]] = joined
        return buffer


def _bytes(layers: Layers) -> int:
    return sum(x.numel() * x.element_size() for pair in layers.values() for x in pair)
