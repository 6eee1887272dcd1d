"""Keys and values of one role's rows: contexts that rows share, and each row's own tail.

A context (a prompt, a negative prompt, a centre prompt) is stored once for all the rows that go
on from it; a row adds only the tokens it generates. Attention to a shared context is one product
for all of its rows. Contexts and rows lie without gaps: where one ends, the last takes its place.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .attention import Scoring, additive, visible

Ids = tuple[int, ...]
Layers = dict[int, tuple[Tensor, Tensor]]


@dataclass
class _Row:
    slot: int
    context: int
    tail: int = 0  # tokens in its tail


class Role:
    """The rows of one role. Buffers are (places, kv heads, columns, head size) per layer."""

    def __init__(self, rows: int, columns: int) -> None:
        """rows: how many at most; columns: how long a tail gets at most."""
        self._size = rows, columns
        self._rows: list[_Row] = []
        self._contexts: list[Ids] = []
        self._context_layers: Layers = {}
        self._tail_layers: Layers = {}
        self._latest: tuple[Ids, ...] = ()
        self._plans: dict[torch.device, _Plan] = {}
        self._step: tuple[list[int], list[_Row]] = [], []

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def slots(self) -> list[int]:
        """Slots of the rows, in order."""
        return [row.slot for row in self._rows]

    def has(self, ids: Ids) -> bool:
        """Whether a context is here already."""
        return ids in self._contexts

    def add_context(self, ids: Ids, layers: Layers, row: int) -> None:
        """Store a context's KV: the first len(ids) columns of row `row` of a prefill's layers."""
        place = len(self._contexts)
        self._contexts.append(ids)
        for layer, pair in layers.items():
            old = self._context_layers.get(layer)
            grown = [
                _room(old[i] if old else None, new[row : row + 1], place + 1, len(ids))
                for i, new in enumerate(pair)
            ]
            for buffer, new in zip(grown, pair, strict=True):
                buffer[place, :, : len(ids)] = new[row, :, : len(ids)]
                buffer[place, :, len(ids) :] = 0
            self._context_layers[layer] = grown[0], grown[1]

    def forget(self, wanted: Collection[Ids]) -> None:
        """Drop contexts without rows, but those wanted next and the latest: the samples that
        share a context are asked for one after the other."""
        used = {row.context for row in self._rows}
        keep = {*wanted, *self._latest}
        for index in reversed(range(len(self._contexts))):
            if index in used or self._contexts[index] in keep:
                continue
            last = len(self._contexts) - 1
            self._contexts[index] = self._contexts[last]
            self._contexts.pop()
            for row in self._rows:
                row.context = index if row.context == last else row.context
            for buffers in self._context_layers.values():
                for buffer in buffers:
                    buffer[index] = buffer[last]

    def open(self, slot: int, ids: Ids) -> None:
        """Start a row that goes on from a context that is here."""
        self._rows.append(_Row(slot, self._contexts.index(ids)))
        self._latest = (ids,)

    def close(self, slots: set[int]) -> None:
        """End the rows of these slots."""
        for index in reversed(range(len(self._rows))):
            if self._rows[index].slot not in slots:
                continue
            last = self._rows.pop()
            if index < len(self._rows):
                self._rows[index] = last
            # Zero what is left behind: a NaN would shine through any mask to the next row.
            for buffers in self._tail_layers.values():
                for buffer in buffers:
                    buffer[index] = buffer[len(self._rows)]
                    buffer[len(self._rows)] = 0

    def positions(self) -> list[int]:
        """Where each row's next token stands."""
        return [len(self._contexts[row.context]) + row.tail for row in self._rows]

    def advance(self) -> None:
        """Make room for one more token in every row; the next forward fills it."""
        self._plans = {}
        self._step = [len(ids) for ids in self._contexts], [replace(row) for row in self._rows]
        for row in self._rows:
            row.tail += 1

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> Tensor:
        """Store the rows' new KV (n, kv heads, 1, size); attend to context and tail."""
        plan = self._plans.get(key.device)
        if plan is None:  # once per step, and per card where a model is spread over several
            plan = self._plans[key.device] = _Plan(*self._step, key.device)
        n, heads, _, size = query.shape
        q = query.reshape(n, key.shape[1], -1, size)
        keys, values = self._tails(layer, key, value)
        keys[plan.rows, :, plan.tails] = key[:, :, 0]
        values[plan.rows, :, plan.tails] = value[:, :, 0]
        keys, values = keys[:n, :, : plan.columns], values[:n, :, : plan.columns]
        shared = self._context_layers[layer]
        near_keys, near_values = (x[: plan.contexts, :, : plan.width] for x in shared)
        products = torch.cat((plan.spread(plan.group(q) @ near_keys.mT), q @ keys.mT), dim=-1)
        weights = scoring.weights(products, plan.mask(scoring.window))
        near, own = weights[..., : plan.width], weights[..., plan.width :]
        out = plan.spread(plan.group(near) @ near_values) + own @ values
        return out.reshape(n, heads, 1, size)

    def _tails(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if layer not in self._tail_layers:
            rows, columns = self._size
            keys, values = (
                x.new_zeros(rows, x.shape[1], columns, x.shape[3]) for x in (key, value)
            )
            self._tail_layers[layer] = keys, values
        return self._tail_layers[layer]


class _Plan:
    """One step's view of a role: which rows share which context, and what each row sees."""

    def __init__(self, lengths: list[int], rows: list[_Row], device: torch.device) -> None:
        """lengths: of the contexts, in tokens; rows: with their tails before this step."""
        self.contexts = len(lengths)
        self.width = max(lengths)
        self.columns = max(row.tail for row in rows) + 1
        self.rows = torch.arange(len(rows), device=device)
        self.tails = torch.tensor([row.tail for row in rows], device=device)
        self._lengths = torch.tensor([lengths[row.context] for row in rows], device=device)
        self._masks: dict[int | None, Tensor] = {}
        self._gather, self._place, self._each = self._grouping(rows, device)

    def group(self, x: Tensor) -> Tensor:
        """(rows, heads, m, w) to (contexts, heads, rows of each · m, w)."""
        if self._each == 0:
            return x
        _, heads, m, w = x.shape
        if self._gather is not None:
            x = x.index_select(0, self._gather)
        x = x.view(self.contexts, self._each, heads, m, w).transpose(1, 2)
        return x.reshape(self.contexts, heads, self._each * m, w)

    def spread(self, x: Tensor) -> Tensor:
        """Undo `group`."""
        if self._each == 0:
            return x
        contexts, heads, _, w = x.shape
        x = x.view(contexts, heads, self._each, -1, w).transpose(1, 2)
        x = x.reshape(contexts * self._each, heads, -1, w)
        return x if self._place is None else x.index_select(0, self._place)

    def mask(self, window: int | None) -> Tensor:
        """(rows, 1, 1, width + columns) additive: contexts, then tails; for every layer."""
        if window not in self._masks:
            lengths = self._lengths[:, None]
            now = lengths + self.tails[:, None]
            near = torch.arange(self.width, device=now.device)
            own = torch.arange(self.columns, device=now.device) + lengths
            seen = (visible(now, near, window) & (near < lengths), visible(now, own, window))
            self._masks[window] = additive(torch.cat(seen, dim=1))[:, None, None]
        return self._masks[window]

    def _grouping(
        self, rows: Sequence[_Row], device: torch.device
    ) -> tuple[Tensor | None, Tensor | None, int]:
        """(row of every place, place of every row, places per context), None where in order;
        0 places when every row has a context of its own, in order."""
        if [row.context for row in rows] == list(range(self.contexts)):
            return None, None, 0
        if self.contexts == 1:
            return None, None, len(rows)
        members: list[list[int]] = [[] for _ in range(self.contexts)]
        for index, row in enumerate(rows):
            members[row.context].append(index)
        each = max(map(len, members))
        gather = [i for group in members for i in group + [0] * (each - len(group))]
        places = {i: c * each + j for c, group in enumerate(members) for j, i in enumerate(group)}
        place = [places[i] for i in range(len(rows))]
        return torch.tensor(gather, device=device), torch.tensor(place, device=device), each


def _room(old: Tensor | None, like: Tensor, places: int, columns: int) -> Tensor:
    """A buffer with at least so much room, `old` copied into it when it had to grow."""
    have = (0, 0) if old is None else (old.shape[0], old.shape[2])
    if old is not None and places <= have[0] and columns <= have[1]:
        return old
    rows = have[0] if places <= have[0] else max(places, 2 * have[0])
    width = max(columns, have[1])
    new = like.new_zeros(rows, like.shape[1], width, like.shape[3])
    if old is not None:
        new[: have[0], :, : have[1]] = old
    return new
