"""A step's work as a kernel finds it: buffers by address, rows of all roles in one order, and tiles
of their contexts.

A tile is a piece of one context and up to ROWS rows that go on from it: what is read once for all
of them. What a step is depends on numbers in one tensor, so that it can be recorded once per shape.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .kv import Ints, Role, Standing
from .plan import Plan, few

ROWS = 16  # of one tile
PIECE = 128  # tokens of a context in one tile: what is longer is looked at side by side
COLUMNS = 6  # of the table of buffers
HEAD = 3  # of a tile's numbers: its role, its context, where its piece begins


@dataclass(frozen=True)
class Tiling:
    """The shape of a step: rows of all roles, tiles (all may be more than there is work for), and
    pieces of the longest context."""

    rows: int
    tiles: int
    pieces: int

    @property
    def size(self) -> int:
        """How many integers go with it; see `Step`."""
        return 2 * self.rows + self.tiles * (HEAD + ROWS)


class Step:
    """One step of n rows, the roles' one after the other.

    places  (n, 2) each row's role and its place among that role's rows
    tiles   (tiles, HEAD + ROWS) role, context, start, then the rows that read it; -1: none
    shared  (n,) tokens that each row reads of its context; own: tokens in its own columns
    """

    def __init__(self, tiling: Tiling, integers: Tensor, plans: Sequence[Plan]) -> None:
        """integers: those of `tiled`, int64; plans: of the roles, in the same order."""
        self.tiling = tiling
        self.places, self.tiles = torch.tensor_split(integers, [2 * tiling.rows])
        self.shared = torch.cat([plan.shared for plan in plans])
        self.own = torch.cat([plan.own for plan in plans])


class Tiles:
    """The tiles of steps, made again when rows or contexts have come or gone."""

    def __init__(self, grain: int) -> None:
        """grain: by which the count of tiles is rounded up."""
        self._grain = grain
        self._last: tuple[list[Standing], Tiling, Ints] | None = None

    def of(self, live: Mapping[int, Role]) -> tuple[Tiling, Ints]:
        """See `tiled`."""
        here = [role.standing() for role in live.values()]
        if self._last is None or self._last[0] != here:
            self._last = here, *tiled(live, self._grain)
        return self._last[1:]


def addresses(roles: Sequence[Role], layer: int) -> list[list[int]]:
    """COLUMNS of each role: addresses of context keys and values and of own keys and values, how
    many columns a context and a row have; zeros for a role that has no buffers."""
    found = (role.buffers(layer) for role in roles)
    return [
        [0] * COLUMNS
        if buffers is None
        else [*(x.data_ptr() for x in buffers), buffers[0].shape[2], buffers[2].shape[2]]
        for buffers in found
    ]


def tiled(roles: Mapping[int, Role], grain: int) -> tuple[Tiling, Ints]:
    """The tiles of a step's rows, of roles by their number; their count is rounded up by `grain`.
    Also as integers: places, then tiles."""
    places: list[Ints] = []
    tiles: list[int] = []
    pieces, first = 1, 0
    for number, role in roles.items():
        rows = role.standing().shape.rows
        places.append(np.stack((np.full(rows, number), np.arange(rows)), axis=1).ravel())
        for context, length, reading in role.sharing():
            pieces = max(pieces, -(-length // PIECE))
            portions = list(_portions([first + row for row in reading]))
            for start in range(0, length, PIECE):
                tiles += [x for some in portions for x in (number, context, start, *some)]
        first += rows
    size = HEAD + ROWS
    count = few(len(tiles) // size, grain)
    tiles += [0, 0, 0, *[-1] * ROWS] * (count - len(tiles) // size)
    return Tiling(first, count, pieces), np.array([*np.concatenate(places), *tiles])


def _portions(rows: Sequence[int]) -> Iterator[list[int]]:
    for start in range(0, len(rows), ROWS):
        some = rows[start : start + ROWS]
        yield [*some, *[-1] * (ROWS - len(some))]
