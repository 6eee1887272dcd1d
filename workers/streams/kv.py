"""Keys and values of one role's rows: contexts that rows share, and each row's own columns.

A context (a prompt, a negative prompt, a centre prompt) is stored once for all the rows that go
on from it; a row adds only the tokens it generates. Attention to a shared context is one product
for all of its rows.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from workers.models.attention import Scoring

from .documents import Context, Layers
from .plan import Grain, Plan, Shape, few, grouping, multiple

Ints = npt.NDArray[np.int64]


@dataclass
class _Row:
    """begun: at which step of the role nothing was in its own columns; shift: from what it reads to
    its position."""

    slot: int
    context: int
    begun: int
    shift: int


@dataclass(frozen=True, eq=False)
class Standing:
    """What stays from step to step until rows or contexts come or go. Arrays are int64.

    slots   of the rows, in order; begun (rows,): theirs; contexts (shape's rows,): theirs
    known   of a `Plan`'s integers the slots, what rows read of their contexts, their shifts, and
            how rows and places go together
    shape   but for its columns
    """

    slots: list[int]
    begun: Ints
    contexts: Ints
    known: tuple[Ints, Ints, Ints, Ints]
    shape: Shape


class Role:
    """The rows of one role. Buffers are (places, kv heads, columns, head size) per layer.

    A row that ends leaves its place to the next that starts, so that rows mostly stay in the
    order of their slots; a step closes what gaps are left.
    """

    def __init__(self, rows: int, columns: int, grain: Grain) -> None:
        """rows: how many at most; columns: tokens a row generates at most."""
        self._slots = rows
        self._columns = columns
        self._grain = grain
        self._rows: list[_Row] = []
        self._vacant: list[int] = []
        self._contexts: list[Context] = []
        self._context_layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._row_layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._latest: tuple[Context, ...] = ()
        self.plan: Plan | None = None  # of the step that runs
        self._moved = False
        self._turn = 0  # steps so far
        self._standing: Standing | None = None

    def __len__(self) -> int:
        return len(self._rows) - len(self._vacant)

    def has(self, context: Context) -> bool:
        """Whether a context is here already."""
        return context in self._contexts

    def add_context(self, context: Context, layers: Layers, row: int) -> None:
        """Store a context's KV: its columns, the first of row `row` of a prefill's layers."""
        place, self._standing = len(self._contexts), None
        self._contexts.append(context)
        for layer, pair in layers.items():
            old = self._context_layers.get(layer)
            places, width = (
                few(place + 1, self._grain.rows),
                multiple(len(context), self._grain.width),
            )
            grown = [
                _room(old[i] if old else None, new[row : row + 1], places, width)
                for i, new in enumerate(pair)
            ]
            self._moved |= old is None or grown[0] is not old[0]
            for buffer, new in zip(grown, pair, strict=True):
                buffer[place, :, : len(context)] = new[row, :, : len(context)]
                buffer[place, :, len(context) :] = 0
            self._context_layers[layer] = grown[0], grown[1]

    def forget(self, wanted: Collection[Context]) -> None:
        """Drop contexts without rows, but those wanted next and the latest: the samples that
        share a context are asked for one after the other."""
        used = {row.context for i, row in enumerate(self._rows) if i not in self._vacant}
        keep = {*wanted, *self._latest}
        for index in reversed(range(len(self._contexts))):
            if index in used or self._contexts[index] in keep:
                continue
            last, self._standing = len(self._contexts) - 1, None
            self._contexts[index] = self._contexts[last]
            self._contexts.pop()
            for row in self._rows:
                row.context = index if row.context == last else row.context
            for buffers in self._context_layers.values():
                for buffer in buffers:
                    buffer[index] = buffer[last]

    def open(self, wanted: Sequence[tuple[int, Context]]) -> None:
        """Start rows (slot, context), each going on from a context that is here."""
        opened: list[int] = []
        self._standing = None
        for slot, context in wanted:
            index, shift = self._contexts.index(context), context.end - len(context)
            place = self._vacant.pop(0) if self._vacant else len(self._rows)
            self._rows[place : place + 1] = [_Row(slot, index, self._turn, shift)]
            opened.append(place)
            self._latest = (context,)
        buffers = [buffer for layer in self._context_layers for buffer in self._buffers(layer)]
        if not self._grain.fused:
            _wipe(buffers, opened)

    def close(self, slots: set[int]) -> None:
        """End the rows of these slots."""
        self._vacant += [
            place
            for place, row in enumerate(self._rows)
            if row.slot in slots and place not in self._vacant
        ]
        self._vacant.sort()

    def clear(self) -> None:
        """End all rows and drop all contexts; the buffers stay."""
        self._rows, self._vacant, self._contexts, self._latest = [], [], [], ()
        self._standing = None

    def _settle(self) -> None:
        """Move the last rows to the places that are still vacant."""
        while self._vacant:
            self._standing = None
            place, last = self._vacant.pop(), self._rows.pop()
            if place == len(self._rows):
                continue
            self._rows[place] = last
            for buffers in self._row_layers.values():
                for buffer in buffers:
                    buffer[place] = buffer[len(self._rows)]

    def is_moved(self) -> bool:
        """Whether a buffer has got a new address since this was last asked."""
        moved, self._moved = self._moved, False
        return moved

    def step(self, tokens: Mapping[int, int]) -> tuple[Shape, Ints]:
        """Make room for one more token (slot → token) in every row; the next forward fills it.

        Returns the step's shape and its integers, see `Plan`. Rows that are there only to fill
        the shape go on from context 0 with token 0, and end in a slot behind the others.
        """
        here = self.standing()
        count, live = here.shape.rows, len(here.slots)
        now, own = np.zeros((2, count), dtype=np.int64)
        now[:live] = [tokens[slot] for slot in here.slots]
        own[:live] = self._turn - here.begun
        self._turn += 1
        columns = multiple(int(own.max()) + 1, self._grain.columns)
        shape = here.shape if self._grain.fused else replace(here.shape, columns=columns)
        slots, *rest = here.known
        return shape, np.concatenate((now, slots, own, *rest))

    def standing(self) -> Standing:
        """How rows and contexts stand now; the same object until that changes."""
        self._settle()
        self._standing = self._standing or self._arranged()
        return self._standing

    def _arranged(self) -> Standing:
        rows, grain, lengths = self._rows, self._grain, [len(context) for context in self._contexts]
        count = few(len(rows), grain.rows)
        contexts = 1 if grain.fused else few(len(lengths), grain.rows)
        width = 0 if grain.fused else multiple(max(lengths), grain.width)
        gather, place, each = grouping([row.context for row in rows], count, contexts, grain)
        slots, shared, shift, of = np.zeros((4, count), dtype=np.int64)
        slots[:] = self._slots
        slots[: len(rows)] = [row.slot for row in rows]
        shared[: len(rows)] = [lengths[row.context] for row in rows]
        shift[: len(rows)] = [row.shift for row in rows]
        of[: len(rows)] = [row.context for row in rows]
        return Standing(
            [row.slot for row in rows],
            np.array([row.begun for row in rows], dtype=np.int64),
            of,
            (slots, shared, shift, np.array([*gather, *place], dtype=np.int64)),
            Shape(count, contexts, each, width, 0),
        )

    def sharing(self) -> list[tuple[int, int, list[int]]]:
        """Contexts that rows read: their place, how many tokens, and the rows that do."""
        rows: dict[int, list[int]] = {}
        for place, row in enumerate(self._rows):
            rows.setdefault(row.context, []).append(place)
        return [(at, len(self._contexts[at]), places) for at, places in rows.items()]

    def buffers(self, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """Keys and values of a layer's contexts and of its rows; None before there are any."""
        if layer not in self._context_layers:
            return None
        return *self._context_layers[layer], *self._buffers(layer)

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> Tensor:
        """Store the rows' new KV (n, kv heads, 1, size); attend to context and own columns."""
        if self.plan is None:
            raise LookupError("no step runs")
        plan = self.plan.on(key.device)
        shape = plan.shape
        n, heads, _, size = query.shape
        q = query.reshape(n, key.shape[1], -1, size)
        keys, values = (
            _put(buffer, plan.places(buffer), new)[:n, :, : shape.columns]
            for buffer, new in zip(self._buffers(layer), (key, value), strict=True)
        )
        products = q @ keys.mT
        near_keys, near_values = (
            x[: shape.contexts, :, : shape.width] for x in self._context_layers[layer]
        )
        products = torch.cat((plan.group(q) @ near_keys.mT, plan.group(products)), dim=-1)
        weights = scoring.weights(products, plan.mask(scoring.window, q.shape[2]))
        near, own = weights[..., : shape.width], weights[..., shape.width :]
        out = plan.spread(near @ near_values) + plan.spread(own) @ values
        return out.reshape(n, heads, 1, size)

    def _buffers(self, layer: int) -> tuple[Tensor, Tensor]:
        """The rows' own keys and values of a layer. No wider than need be: a CPU reads rows that
        lie close together faster."""
        if layer not in self._row_layers:
            rows = few(self._slots, self._grain.rows)
            columns = multiple(self._columns, self._grain.columns)
            keys, values = (_room(None, x, rows, columns) for x in self._context_layers[layer])
            self._row_layers[layer] = keys, values
            self._moved = True
        return self._row_layers[layer]


def _wipe(buffers: Sequence[Tensor], rows: Sequence[int]) -> None:
    """A NaN left behind by the last row of a place would shine through any mask."""
    places = torch.tensor(rows)
    for buffer in buffers:
        places = places.to(buffer.device)
        buffer.index_fill_(0, places, 0)


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
