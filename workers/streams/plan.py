"""A step's view of one role: a shape, and a vector of integers that says which rows share which
context and what each row sees.

The same shape on the same buffers is the same work, so that it can be recorded once and replayed
with other integers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.models.attention import additive, visible


@dataclass(frozen=True)
class Grain:
    """How coarsely a step's shape is rounded up: 1 is not at all, and no work for nothing; on a
    GPU few shapes are wanted, as each is recorded once."""

    rows: int = 1  # and contexts: powers of two up to this, then its multiples
    columns: int = 1  # of rows: multiples
    width: int = 1  # of contexts: multiples
    fused: bool = False  # a kernel reads what each row sees: of a shape only the rows count


@dataclass(frozen=True)
class Shape:
    """What of a role's buffers a step works on; all of it may be more than there is."""

    rows: int
    contexts: int
    each: int  # places per context in a product; 0: row i goes on from context i
    width: int
    columns: int

    @property
    def gathers(self) -> bool:
        """Whether rows must be brought into the order of their contexts."""
        return self.each > 0 and self.contexts > 1

    @property
    def parts(self) -> list[int]:
        """Lengths of the parts of the integers that go with it; see `Plan`."""
        return [*[self.rows] * 5, *([self.contexts * self.each, self.rows] if self.gathers else [])]


class Plan:
    """One step's view of a role: which rows share which context, and what each row sees.

    Rows are grouped by their context for products with it: places (contexts · each), of which
    some may stay idle.
    """

    def __init__(self, shape: Shape, integers: Tensor) -> None:
        """integers: int64, for each row its token, its slot, how many tokens are in its own
        columns before this step, how many it reads of its context, and how far its position is
        from their sum; then, where rows must be put in order, the row of every place and the
        place of every row."""
        self.shape = shape
        self._integers = integers
        parts = torch.split(integers, shape.parts)
        self.tokens, self.slots, self.own, self.shared, self._shift = parts[:5]
        self._order = parts[5:]  # (row of every place, place of every row), or empty
        self._places: dict[tuple[int, ...], Tensor] = {}
        self._masks: dict[int | None, Tensor] = {}
        self._elsewhere: dict[torch.device, Plan] = {}

    def on(self, device: torch.device) -> "Plan":
        """The same on another card, where a model is spread over several."""
        if device == self._integers.device:
            return self
        if device not in self._elsewhere:
            self._elsewhere[device] = Plan(self.shape, self._integers.to(device))
        return self._elsewhere[device]

    @property
    def positions(self) -> Tensor:
        """(rows,) where each row's token stands."""
        return self.shared + self.own + self._shift

    def places(self, buffer: Tensor) -> Tensor:
        """(rows · heads,) where the new token goes in a buffer seen as (…, head size)."""
        _, heads, columns, _ = buffer.shape
        if (heads, columns) not in self._places:
            row = torch.arange(self.shape.rows, device=self.own.device)[:, None]
            head = torch.arange(heads, device=self.own.device)
            place = (row * heads + head) * columns + self.own[:, None]
            self._places[heads, columns] = place.flatten()
        return self._places[heads, columns]

    def group(self, x: Tensor) -> Tensor:
        """(rows, heads, m, w) to (contexts, heads, each · m, w)."""
        if self.shape.each == 0:
            return x
        _, heads, m, w = x.shape
        if self._order:
            x = x.index_select(0, self._order[0])
        x = x.view(self.shape.contexts, self.shape.each, heads, m, w).transpose(1, 2)
        return x.reshape(self.shape.contexts, heads, self.shape.each * m, w)

    def spread(self, x: Tensor) -> Tensor:
        """Undo `group`."""
        if self.shape.each == 0:
            return x
        contexts, heads, _, w = x.shape
        x = x.reshape(contexts, heads, self.shape.each, -1, w).transpose(1, 2)
        x = x.reshape(contexts * self.shape.each, heads, -1, w)
        return x.index_select(0, self._order[1]) if self._order else x

    def mask(self, window: int | None, queries: int) -> Tensor:
        """Additive, for every layer: contexts, then own columns, grouped, (contexts, 1,
        each · queries, width + columns)."""
        if window not in self._masks:
            shared, now = self.shared[:, None], (self.shared + self.own)[:, None]
            own = torch.arange(self.shape.columns, device=now.device) + shared
            near = torch.arange(self.shape.width, device=now.device)
            seen = visible(now, near, window) & (near < shared), visible(now, own, window)
            mask = additive(torch.cat(seen, dim=-1))[:, None, None]
            self._masks[window] = self.group(mask.expand(-1, -1, queries, -1))
        return self._masks[window]


def grouping(
    context: Sequence[int], rows: int, contexts: int, grain: Grain
) -> tuple[list[int], list[int], int]:
    """(row of every place, place of every row, places per context) for the context of each row;
    no places where rows are in order: all of one context, or row i of context i (0 per context).
    Rows beyond those given get a place of another's."""
    if contexts == 1:
        return [], [], rows
    if rows == contexts and context == list(range(rows)):
        return [], [], 0
    members: list[list[int]] = [[] for _ in range(contexts)]
    for index, of in enumerate(context):
        members[of].append(index)
    each = few(max(map(len, members)), grain.rows)
    gather = [i for group in members for i in group + [0] * (each - len(group))]
    places = {i: c * each + j for c, group in enumerate(members) for j, i in enumerate(group)}
    return gather, [places.get(i, 0) for i in range(rows)], each


def few(count: int, grain: int) -> int:
    """Rounded up to a power of two, from `grain` on to a multiple of it; 0 stays 0."""
    return count and min(1 << (count - 1).bit_length(), multiple(count, grain))


def multiple(count: int, grain: int) -> int:
    return -(-count // grain) * grain
