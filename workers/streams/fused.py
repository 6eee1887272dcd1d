"""Attention of a step for the rows of all roles at once, in two Triton kernels, for CUDA;
`kv.Role.attend` is their reference. Imported only where it is used: triton comes with CUDA's torch.

The first kernel attends to contexts, a piece of one for up to ROWS rows that go on from it, so that
its keys and values are read once for all of them. The second adds to that what each row has in its
own columns. A softmax over all keys is put together from its parts (Milakov and Gimelshein, arXiv
1805.02867). Nothing is read but what a row sees, whatever the buffers hold beyond it.
"""

from collections.abc import Mapping, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from workers.models.attention import Scoring

from .kv import Ints, Role
from .plan import Plan
from .tiles import COLUMNS, HEAD, PIECE, ROWS, Step, Tiles, Tiling, addresses

LOWEST = -1e30  # in the place of −∞, which would turn into NaN
KEYS = 2**14  # bytes of a context's keys that are looked at together
QUERIES = 64  # at most, that look at them
OWN = 2048  # numbers of a row's own keys, likewise


class Fused:
    """The buffers of some roles, as the kernels find them: by address."""

    def __init__(self, roles: Sequence[Role], grain: int) -> None:
        """grain: by which the count of tiles is rounded up."""
        self._roles = roles
        self._tables: dict[int, Tensor] = {}
        self._tiles = Tiles(grain)

    def clear(self) -> None:
        """Forget addresses, as when a buffer has a new one."""
        self._tables.clear()

    def arrange(self, live: Mapping[int, Role]) -> tuple[Tiling, Ints]:
        """The tiles of a step of these roles, by their numbers."""
        return self._tiles.of(live)

    def attender(self, tiling: Tiling, integers: Tensor, plans: Sequence[Plan]) -> "Together":
        """What attends in one step; tiling and integers are those of `arrange`."""
        return Together(self, Step(tiling, integers, plans))

    def table(self, layer: int, device: torch.device) -> Tensor:
        """(roles, COLUMNS) int64, see `addresses`."""
        if layer not in self._tables:
            self._tables[layer] = torch.tensor(addresses(self._roles, layer), device=device)
        return self._tables[layer]


class Together:
    """Attention of one step; see `attention.Attender`."""

    def __init__(self, fused: Fused, step: Step) -> None:
        self._fused = fused
        self._step = step

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> Tensor:
        """Store the rows' new KV (n, kv heads, 1, size); attend to context and own columns."""
        step, tiling = self._step, self._step.tiling
        (n, heads, _, size), kv_heads = query.shape, key.shape[1]
        table = self._fused.table(layer, query.device)
        sums = query.new_empty(tiling.pieces, n, heads, size, dtype=torch.float32)
        weight = query.new_empty(tiling.pieces, n, heads, 2, dtype=torch.float32)
        width = triton.next_power_of_2(size)
        same = {
            "scale": scoring.scale, "cap": scoring.softcap or 0.0, "window": scoring.window or 0,
            "rows": n, "HEADS": heads, "KV_HEADS": kv_heads, "SIZE": size,
            "WINDOW": scoring.window is not None, "SOFTCAP": scoring.softcap is not None,
            "PIECE": PIECE, "COLUMNS": COLUMNS, "LOWEST": LOWEST,
        }  # fmt: skip
        if tiling.tiles:
            queries, wide = ROWS * heads // kv_heads, max(16, width)
            m = min(QUERIES, max(16, triton.next_power_of_2(queries)))
            keys = min(64, max(16, KEYS // (wide * query.element_size())))
            _pieces[(tiling.tiles, kv_heads, triton.cdiv(queries, m))](
                query, query.stride(0), query.stride(1),
                table, step.tiles, step.shared, step.own, sums, weight, **same,
                HEAD=HEAD, ROWS=ROWS, M=m, WIDTH=wide, BLOCK=keys, num_warps=4, num_stages=2,
            )  # fmt: skip
        out = query.new_empty(n, heads, 1, size)
        _rows[(n, heads)](
            query, query.stride(0), query.stride(1), key, key.stride(0), key.stride(1),
            value, value.stride(0), value.stride(1),
            table, step.places, step.shared, step.own, sums, weight, out, **same,
            WIDTH=width, BLOCK=max(8, OWN // width), num_warps=1, num_stages=1,
        )  # fmt: skip
        return out


@triton.jit
def _squashed(score, cap, SOFTCAP: tl.constexpr):
    """Scores within (−cap, cap), where a model wants that."""
    return cap * (2 * tl.sigmoid(2 * score / cap) - 1) if SOFTCAP else score


@triton.jit(do_not_specialize=["rows"])
def _pieces(
    query, query_row, query_head, table, tiles, shared, own, sums_out, weight_out,
    scale, cap, window, rows,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, SIZE: tl.constexpr,
    WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, PIECE: tl.constexpr, COLUMNS: tl.constexpr,
    LOWEST: tl.constexpr, HEAD: tl.constexpr, ROWS: tl.constexpr, M: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One piece of a context, one head of its keys, for the rows of a tile: the best score, the sum
    of exp(score − best), and of values weighed so."""
    group: tl.constexpr = HEADS // KV_HEADS
    tile, head = tiles + tl.program_id(0) * (HEAD + ROWS), tl.program_id(1)
    role, context, start = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
    m = tl.program_id(2) * M + tl.arange(0, M)
    row = tl.load(tile + HEAD + m // group, mask=m < ROWS * group, other=-1)
    there = row >= 0
    of = head * group + m % group
    d = tl.arange(0, WIDTH)
    inside = d < SIZE
    both = there[:, None] & inside[None, :]
    q = tl.load(
        query + (row * query_row + of * query_head)[:, None] + d[None, :], mask=both, other=0.0
    )
    reach = tl.load(shared + row, mask=there, other=0)
    now = reach + tl.load(own + row, mask=there, other=0)
    end = tl.minimum(tl.max(reach, axis=0), start + PIECE)

    table += role * COLUMNS
    kind = tl.pointer_type(query.dtype.element_ty)
    first = (context * KV_HEADS + head) * tl.load(table + 4) * SIZE
    keys, values = tl.load(table).to(kind) + first, tl.load(table + 1).to(kind) + first
    best = tl.full([M], LOWEST, tl.float32)
    total = tl.zeros([M], tl.float32)
    sums = tl.zeros([M, WIDTH], tl.float32)
    for begin in range(start, end, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        block = column[:, None] * SIZE + d[None, :]
        inner = (column < end)[:, None] & inside[None, :]
        k = tl.load(keys + block, mask=inner, other=0.0)
        v = tl.load(values + block, mask=inner, other=0.0)
        seen = (column < end)[None, :] & (column[None, :] < reach[:, None])
        if WINDOW:
            seen &= column[None, :] > now[:, None] - window
        score = _squashed(tl.dot(q, tl.trans(k), input_precision="ieee") * scale, cap, SOFTCAP)
        score = tl.where(seen, score, LOWEST)
        top = tl.maximum(best, tl.max(score, axis=1))
        weight = tl.where(seen, tl.exp(score - top[:, None]), 0.0)
        fade = tl.exp(best - top)
        total = total * fade + tl.sum(weight, axis=1)
        sums = sums * fade[:, None] + tl.dot(weight.to(v.dtype), v, input_precision="ieee")
        best = top

    at = (start // PIECE * rows + row) * HEADS + of
    tl.store(weight_out + 2 * at, best, mask=there)
    tl.store(weight_out + 2 * at + 1, total, mask=there)
    tl.store(sums_out + at[:, None] * SIZE + d[None, :], sums, mask=both)


@triton.jit(do_not_specialize=["rows"])
def _rows(
    query, query_row, query_head, key, key_row, key_head, value, value_row, value_head,
    table, places, shared, own, sums_in, weight_in, out, scale, cap, window, rows,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, SIZE: tl.constexpr,
    WINDOW: tl.constexpr, SOFTCAP: tl.constexpr, PIECE: tl.constexpr, COLUMNS: tl.constexpr,
    LOWEST: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row and one head: stores the new key and value, attends to them and to what is in its
    own columns, and adds the pieces of its context."""
    group: tl.constexpr = HEADS // KV_HEADS
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    of = head // group
    role, place = tl.load(places + 2 * row), tl.load(places + 2 * row + 1)
    reach, length = tl.load(shared + row), tl.load(own + row)
    d = tl.arange(0, WIDTH)
    inside = d < SIZE
    q = tl.load(query + row * query_row + head * query_head + d, mask=inside, other=0.0)
    new_key = tl.load(key + row * key_row + of * key_head + d, mask=inside, other=0.0)
    new_value = tl.load(value + row * value_row + of * value_head + d, mask=inside, other=0.0)
    table += role * COLUMNS
    kind = tl.pointer_type(query.dtype.element_ty)
    first = (place * KV_HEADS + of) * tl.load(table + 5) * SIZE
    keys, values = tl.load(table + 2).to(kind) + first, tl.load(table + 3).to(kind) + first
    if head % group == 0:
        tl.store(keys + length * SIZE + d, new_key, mask=inside)
        tl.store(values + length * SIZE + d, new_value, mask=inside)

    q = q.to(tl.float32) * scale
    best = _squashed(tl.sum(q * new_key.to(tl.float32), axis=0), cap, SOFTCAP)
    total = best * 0 + 1
    sums = new_value.to(tl.float32)
    for begin in range(0, length, BLOCK):
        column = begin + tl.arange(0, BLOCK)
        block = column[:, None] * SIZE + d[None, :]
        seen = column < length
        inner = seen[:, None] & inside[None, :]
        k = tl.load(keys + block, mask=inner, other=0.0).to(tl.float32)
        v = tl.load(values + block, mask=inner, other=0.0).to(tl.float32)
        if WINDOW:
            seen &= column > length - window
        score = _squashed(tl.sum(k * q[None, :], axis=1), cap, SOFTCAP)
        score = tl.where(seen, score, LOWEST)
        top = tl.maximum(best, tl.max(score, axis=0))
        weight = tl.where(seen, tl.exp(score - top), 0.0)
        fade = tl.exp(best - top)
        total = total * fade + tl.sum(weight, axis=0)
        sums = sums * fade + tl.sum(weight[:, None] * v, axis=0)
        best = top
    for piece in range((reach + PIECE - 1) // PIECE):
        at = (piece * rows + row) * HEADS + head
        far, more = tl.load(weight_in + 2 * at), tl.load(weight_in + 2 * at + 1)
        far_sums = tl.load(sums_in + at * SIZE + d, mask=inside, other=0.0)
        top = tl.maximum(best, far)
        fade, grow = tl.exp(best - top), tl.exp(far - top)
        total = total * fade + more * grow
        sums = sums * fade + far_sums * grow
        best = top
    tl.store(
        out + (row * HEADS + head) * SIZE + d,
        (sums / total).to(query.dtype.element_ty),
        mask=inside,
    )
