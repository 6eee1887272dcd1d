"""Keys and values of one role's rows: contexts that rows share, and each row's own columns.

A context (a prompt, a negative prompt, a centre prompt) is stored once for all the rows that go
on from it; a row adds only the tokens it generates. Attention to a shared context is one product
for all of its rows. A short one is copied into each row's own columns: reading it apart costs more.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import Scoring, additive, visible

Ids = tuple[int, ...]
Layers = dict[int, tuple[Tensor, Tensor]]


@dataclass
class _Row:
    """shared: tokens of the context that it reads where all rows do; own: tokens in its own
    columns, those of a short context among them."""

    slot: int
    context: int
    shared: int
    own: int


class Role:
    """The rows of one role. Buffers are (places, kv heads, columns, head size) per layer.

    A row that ends leaves its place to the next that starts, so that rows mostly stay in the
    order of their slots; `settle` closes what gaps are left.
    """

    def __init__(self, rows: int, columns: int, short: int) -> None:
        """rows: how many at most; columns: tokens a row generates at most; short: a context of
        up to so many tokens is copied to each row, which is faster than reading it apart."""
        self._size = rows, columns + short
        self._short = short
        self._rows: list[_Row] = []
        self._vacant: list[int] = []
        self._contexts: list[Ids] = []
        self._context_layers: Layers = {}
        self._row_layers: Layers = {}
        self._latest: tuple[Ids, ...] = ()
        self._plans: dict[torch.device, _Plan] = {}

    def __len__(self) -> int:
        return len(self._rows) - len(self._vacant)

    @property
    def slots(self) -> list[int]:
        """Slots of the rows, in order; after `settle`."""
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
        used = {row.context for i, row in enumerate(self._rows) if i not in self._vacant}
        keep = {*wanted, *self._latest}
        for index in reversed(range(len(self._contexts))):
            if index in used or self._contexts[index] in keep:
                continue
            last = len(self._contexts) - 1
            self._contexts[index] = self._contexts[last]
            self._contexts.pop()
            self._plans = {}
            for row in self._rows:
                row.context = index if row.context == last else row.context
            for buffers in self._context_layers.values():
                for buffer in buffers:
                    buffer[index] = buffer[last]

    def open(self, slot: int, ids: Ids) -> None:
        """Start a row that goes on from a context that is here."""
        context, length = self._contexts.index(ids), len(ids)
        copied = length if length <= self._short else 0
        row = _Row(slot, context, length - copied, copied)
        if self._vacant:
            place = self._vacant.pop(0)
            self._rows[place] = row
        else:
            place = len(self._rows)
            self._rows.append(row)
        for layer, pair in self._context_layers.items():
            for buffer, shared in zip(self._buffers(layer), pair, strict=True):
                buffer[place, :, :copied] = shared[context, :, :copied]
                # A NaN left behind by the last row would shine through any mask.
                buffer[place, :, copied:] = 0
        self._latest = (ids,)
        self._plans = {}

    def close(self, slots: set[int]) -> None:
        """End the rows of these slots."""
        self._vacant += [
            place
            for place, row in enumerate(self._rows)
            if row.slot in slots and place not in self._vacant
        ]
        self._vacant.sort()

    def settle(self) -> None:
        """Move the last rows to the places that are still vacant."""
        while self._vacant:
            place, last = self._vacant.pop(), self._rows.pop()
            self._plans = {}
            if place == len(self._rows):
                continue
            self._rows[place] = last
            for buffers in self._row_layers.values():
                for buffer in buffers:
                    buffer[place] = buffer[len(self._rows)]

    def positions(self) -> list[int]:
        """Where each row's next token stands."""
        return [row.shared + row.own for row in self._rows]

    def advance(self) -> None:
        """Make room for one more token in every row; the next forward fills it."""
        for row in self._rows:
            row.own += 1
        for plan in self._plans.values():
            plan.advance()

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> Tensor:
        """Store the rows' new KV (n, kv heads, 1, size); attend to context and own columns."""
        plan = self._plans.get(key.device)
        if plan is None:  # once per change, and per card where a model is spread over several
            lengths = [len(ids) for ids in self._contexts]
            plan = self._plans[key.device] = _Plan(lengths, self._rows, key.device)
        n, heads, _, size = query.shape
        q = query.reshape(n, key.shape[1], -1, size)
        keys, values = (
            _put(buffer, plan.places(buffer), new)[:n, :, : plan.columns]
            for buffer, new in zip(self._buffers(layer), (key, value), strict=True)
        )
        products = q @ keys.mT
        if plan.width == 0:
            out = scoring.weights(products, plan.mask(scoring.window, 1)) @ values
            return out.reshape(n, heads, 1, size)
        near_keys, near_values = (
            x[: plan.contexts, :, : plan.width] for x in self._context_layers[layer]
        )
        products = torch.cat((plan.group(q) @ near_keys.mT, plan.group(products)), dim=-1)
        weights = scoring.weights(products, plan.mask(scoring.window, q.shape[2]))
        near, own = weights[..., : plan.width], weights[..., plan.width :]
        out = plan.spread(near @ near_values) + plan.spread(own) @ values
        return out.reshape(n, heads, 1, size)

    def _buffers(self, layer: int) -> tuple[Tensor, Tensor]:
        """The rows' own keys and values of a layer."""
        if layer not in self._row_layers:
            rows, columns = self._size
            keys, values = (
                x.new_zeros(rows, x.shape[1], columns, x.shape[3])
                for x in self._context_layers[layer]
            )
            self._row_layers[layer] = keys, values
        return self._row_layers[layer]


class _Plan:
    """A role's view of its rows: which share which context, and what each row sees.

    Rows are grouped by their context for products with it: places (contexts · each), of which
    some may stay idle.
    """

    def __init__(self, lengths: list[int], rows: list[_Row], device: torch.device) -> None:
        """lengths: of the contexts, in tokens; rows: with the token of this step."""
        self.contexts = len(lengths)
        self.width = max(row.shared for row in rows) and max(lengths)
        self.columns = max(row.own for row in rows)
        self._rows = torch.arange(len(rows), device=device)
        self._now = torch.tensor([row.own for row in rows], device=device) - 1
        self._shared = torch.tensor([row.shared for row in rows], device=device)
        self._places: dict[tuple[int, ...], Tensor] = {}
        self._masks: dict[int | None, Tensor] = {}
        self._gather, self._place, self._each = self._grouping(rows, device)

    def advance(self) -> None:
        """Every row has got one more token."""
        self.columns += 1
        self._now += 1
        self._places = {}
        self._masks = {}

    def places(self, buffer: Tensor) -> Tensor:
        """(rows · heads,) where the new token goes in a buffer seen as (…, head size)."""
        _, heads, columns, _ = buffer.shape
        if (heads, columns) not in self._places:
            head = torch.arange(heads, device=self._now.device)
            place = (self._rows[:, None] * heads + head) * columns + self._now[:, None]
            self._places[heads, columns] = place.flatten()
        return self._places[heads, columns]

    def group(self, x: Tensor) -> Tensor:
        """(rows, heads, m, w) to (contexts, heads, each · m, w)."""
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
        x = x.reshape(contexts, heads, self._each, -1, w).transpose(1, 2)
        x = x.reshape(contexts * self._each, heads, -1, w)
        return x if self._place is None else x.index_select(0, self._place)

    def mask(self, window: int | None, queries: int) -> Tensor:
        """Additive, for every layer: contexts, then own columns. Without contexts to read apart
        (rows, 1, 1, columns); else grouped, (contexts, 1, each · queries, width + columns)."""
        if window not in self._masks:
            shared = self._shared[:, None]
            now = shared + self._now[:, None]
            near = torch.arange(self.width, device=now.device)
            own = torch.arange(self.columns, device=now.device) + shared
            seen = (visible(now, near, window) & (near < shared), visible(now, own, window))
            mask = additive(torch.cat(seen, dim=1))[:, None, None]
            if self.width:
                mask = self.group(mask.expand(-1, -1, queries, -1))
            self._masks[window] = mask
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


def _put(buffer: Tensor, places: Tensor, new: Tensor) -> Tensor:
    """Write (rows, heads, 1, size) to the buffer, and return that."""
    size = buffer.shape[-1]
    buffer.view(-1, size).index_copy_(0, places, new.reshape(-1, size))
    return buffer


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
