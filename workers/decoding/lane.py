"""A lane: one set of weights, the rows that go through it, and their KV."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .cache import RowCache, layer_masks
from .lora import RowWeights

Ids = Sequence[int]
PREFILL_TOKENS = 8192  # of one prefill forward, padding included; bounds its memory


@dataclass(frozen=True)
class Stream:
    """One text that is followed: which slot it helps to decode, as what."""

    slot: int
    role: str
    by_expert: bool


@dataclass
class _Row:
    stream: Stream
    length: int


class Lane:
    """Rows 0 … n−1 are live; when one closes, the last one takes its place."""

    def __init__(self, model: PreTrainedModel, weights: RowWeights | None) -> None:
        """weights: where a row-wise LoRA reads which rows are the expert's; None: no such."""
        self._model = model
        self._device = _input_device(model)
        self._config = model.config.get_text_config()
        self._weights = weights
        self._cache = RowCache()
        self._rows: list[_Row] = []

    @property
    def streams(self) -> list[Stream]:
        """The live rows' streams, in row order."""
        return [row.stream for row in self._rows]

    def open(self, contexts: Sequence[tuple[Stream, Ids]]) -> Tensor:
        """Start a row per context; (n, V) logits after each context's last token."""
        chunks = [self._prefill(chunk) for chunk in _chunks(contexts)]
        return torch.cat(chunks)

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Go on by one token per live row; (n, V) logits."""
        device = self._device
        lengths = [row.length for row in self._rows]
        positions = torch.tensor(lengths, device=device)
        self._cache.decode(positions, max(lengths) + 1)
        for row in self._rows:
            row.length += 1
        ids = torch.tensor(tokens, device=device)[:, None]
        return self._forward(ids, positions[:, None], max(lengths) + 1, self.streams)[:, -1]

    def close(self, slots: set[int]) -> None:
        """End all rows of these slots."""
        for index in reversed(range(len(self._rows))):
            if self._rows[index].stream.slot not in slots:
                continue
            self._cache.wipe(index)
            last = self._rows.pop()
            if index < len(self._rows):
                self._cache.move(len(self._rows), index, last.length)
                self._rows[index] = last

    def _prefill(self, contexts: Sequence[tuple[Stream, Ids]]) -> Tensor:
        device = self._device
        first, width = len(self._rows), max(len(ids) for _, ids in contexts)
        padded = [[*ids, *[0] * (width - len(ids))] for _, ids in contexts]
        ids = torch.tensor(padded, device=device)
        rows = torch.arange(first, first + len(contexts), device=device)
        self._rows += [_Row(stream, len(ids)) for stream, ids in contexts]
        self._cache.prefill(rows, width, capacity=len(self._rows))
        positions = torch.arange(width, device=device).expand(len(contexts), width)
        streams = [stream for stream, _ in contexts]
        last = sorted({len(ids) - 1 for _, ids in contexts})
        keep = torch.tensor(last, device=device)
        logits = self._forward(ids, positions, width, streams, keep)
        at = [last.index(len(ids) - 1) for _, ids in contexts]
        return logits[torch.arange(len(contexts)), at]

    def _forward(
        self,
        ids: Tensor,
        positions: Tensor,
        columns: int,
        streams: Sequence[Stream],
        keep: Tensor | int = 1,
    ) -> Tensor:
        """(n, q) ids at positions (n, q) to (n, kept, V) logits."""
        if self._weights is not None:
            expert = torch.tensor([stream.by_expert for stream in streams], device=ids.device)
            self._weights.value = expert.to(self._model.dtype)[:, None, None]
        logits: Tensor = self._model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=layer_masks(self._config, positions, columns, self._model.dtype),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=keep,
        ).logits
        return logits


def _input_device(model: PreTrainedModel) -> torch.device:
    weight: Tensor = model.get_input_embeddings().weight  # type: ignore[assignment]
    return weight.device


def _chunks(contexts: Sequence[tuple[Stream, Ids]]) -> list[list[tuple[Stream, Ids]]]:
    """Split so that no forward is much over PREFILL_TOKENS; every chunk has one context or more."""
    chunks: list[list[tuple[Stream, Ids]]] = [[]]
    width = 0
    for stream, ids in contexts:
        width = max(width, len(ids))
        if chunks[-1] and width * (len(chunks[-1]) + 1) > PREFILL_TOKENS:
            chunks.append([])
            width = len(ids)
        chunks[-1].append((stream, ids))
    return chunks
