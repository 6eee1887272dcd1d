"""The loops of attention on a CPU, compiled by numba: for each query alone, over all keys that it
sees, those of its context and then its row's own.

Rows that share a context come one after the other for each of its heads, so that its keys and
values stay in the cache. Nothing is read but what a row sees, whatever the buffers hold beyond it.

numba's own vectors go over the wrong axis here, so the two inner loops (`_dot`, `_weigh`) are said
in LLVM's vectors. Addresses are bytes, as int64; numbers are float32.
"""

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16  # numbers in a vector
LINE = 64  # bytes that a cache fetches at once
ROLES = 64  # more than there are
FLAGS = ("reassoc", "contract", "nsz", "arcp")  # sums in any order, but NaN stays NaN
FAST = set(FLAGS)

_FLOAT, _INT, _LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_VECTOR = ir.VectorType(_FLOAT, LANES)
_ZEROS = ir.Constant(_VECTOR, [0.0] * LANES)


@intrinsic
def _at(context, address):
    """An address as a pointer to float32."""

    def code(context, builder, signature, args):
        return builder.inttoptr(args[0], _FLOAT.as_pointer())

    return types.CPointer(types.float32)(types.int64), code


@intrinsic
def _ints_at(context, address):
    """An address as a pointer to int64."""

    def code(context, builder, signature, args):
        return builder.inttoptr(args[0], _LONG.as_pointer())

    return types.CPointer(types.int64)(types.int64), code


@intrinsic
def _bits(context, number):
    """The float32 with the bits of an int32."""

    def code(context, builder, signature, args):
        return builder.bitcast(args[0], _FLOAT)

    return types.float32(types.int32), code


@intrinsic
def _prefetch(context, address):
    """Have the cache fetch what is there."""

    def code(context, builder, signature, args):
        byte = ir.IntType(8).as_pointer()
        fetch = _llvm(builder, "llvm.prefetch.p0", ir.VoidType(), byte, _INT, _INT, _INT)
        to_read, stays, data = (ir.Constant(_INT, i) for i in (0, 3, 1))
        builder.call(fetch, [builder.inttoptr(args[0], byte), to_read, stays, data])
        return context.get_dummy_value()

    return types.void(types.int64), code


@intrinsic
def _dot(context, x, y, count):
    """The sum of the products of two vectors of LANES · count numbers."""

    def code(context, builder, signature, args):
        total = cgutils.alloca_once(builder, _VECTOR)
        builder.store(_ZEROS, total)
        with cgutils.for_range(builder, args[2]) as loop:
            first = builder.mul(loop.index, ir.Constant(_LONG, 4 * LANES))
            x, y = (_load(builder, builder.add(address, first)) for address in args[:2])
            builder.store(_plus(builder, builder.load(total), x, y), total)
        name = f"llvm.vector.reduce.fadd.v{LANES}f32"
        reduce = _llvm(builder, name, _FLOAT, _FLOAT, _VECTOR)
        start = ir.Constant(_FLOAT, -0.0)
        return builder.call(reduce, [start, builder.load(total)], fastmath=FLAGS)

    return types.float32(types.int64, types.int64, types.int64), code


@intrinsic
def _weigh(context, weights, rows, stride, count, out):
    """Add weights @ rows, (count,) @ (count, LANES), to LANES numbers; the rows' first numbers
    are `stride` bytes apart. Four sums, as an addition waits for the one before it."""

    def code(context, builder, signature, args):
        weights, rows, stride, count, out = args
        sums = [cgutils.alloca_once(builder, _VECTOR) for _ in range(4)]
        for total, start in zip(sums, (_load(builder, out), *[_ZEROS] * 3), strict=True):
            builder.store(start, total)

        def add(index, total):
            place = builder.add(weights, builder.shl(index, ir.Constant(_LONG, 2)))
            weight = builder.load(builder.inttoptr(place, _FLOAT.as_pointer()), align=4)
            row = _load(builder, builder.add(rows, builder.mul(index, stride)))
            more = _plus(builder, builder.load(total), _splat(builder, weight), row)
            builder.store(more, total)

        fours = builder.lshr(count, ir.Constant(_LONG, 2))
        done = builder.shl(fours, ir.Constant(_LONG, 2))
        with cgutils.for_range(builder, fours) as loop:
            first = builder.shl(loop.index, ir.Constant(_LONG, 2))
            for i, total in enumerate(sums):
                add(builder.add(first, ir.Constant(_LONG, i)), total)
        with cgutils.for_range(builder, builder.sub(count, done)) as loop:
            add(builder.add(done, loop.index), sums[0])
        a, b, c, d = (builder.load(total) for total in sums)
        pairs = builder.fadd(a, b, flags=FLAGS), builder.fadd(c, d, flags=FLAGS)
        place = builder.inttoptr(out, _VECTOR.as_pointer())
        builder.store(builder.fadd(*pairs, flags=FLAGS), place, align=4)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), code


def _llvm(builder, name, result, *args):
    """One of LLVM's own functions."""
    known = builder.module.globals.get(name)
    return known or ir.Function(builder.module, ir.FunctionType(result, args), name)


def _load(builder, address):
    return builder.load(builder.inttoptr(address, _VECTOR.as_pointer()), align=4)


def _splat(builder, number):
    nothing = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(nothing, number, ir.Constant(_INT, 0))
    zeros = ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES)
    return builder.shuffle_vector(first, nothing, zeros)


def _plus(builder, total, x, y):
    return builder.fadd(total, builder.fmul(x, y, flags=FLAGS), flags=FLAGS)


ZERO, HALF, ONE, TWO = (np.float32(x) for x in (0, 0.5, 1, 2))
LEAST, MOST = np.float32(-87), np.float32(88)  # beyond them exp would not be a normal float32
PER_LN2, LN2_HIGH, LN2_LOW = (np.float32(x) for x in (1 / np.log(2), 0.693359375, -2.1219444e-4))
C2, C3, C4, C5, C6, C7 = (
    np.float32(x)
    for x in (0.50000001, 0.16666665, 0.041665796, 0.0083334519, 0.0013982000, 0.00019875691)
)


@njit(fastmath=FAST, inline="always")
def _exp(x):
    """exp x, relative error under 3 · 10⁻⁷: 2ⁿ · exp r, |r| ≤ ln 2 / 2, by the polynomial of the
    Cephes library (Moshier), which the compiler can make vectors of."""
    x = LEAST if x < LEAST else x
    x = MOST if x > MOST else x
    n = np.floor(x * PER_LN2 + HALF)
    r = x - n * LN2_HIGH - n * LN2_LOW
    tail = ((((C7 * r + C6) * r + C5) * r + C4) * r + C3) * r + C2
    return (tail * r * r + r + ONE) * _bits((np.int32(n) + np.int32(127)) << np.int32(23))


@njit(fastmath=FAST)
def _products(query, keys, count, size, scale, out):
    """out (count,) = keys (count, size) @ query (size,) · scale."""
    whole = size // LANES
    scores = carray(_at(out), (count,))
    for i in range(count):
        scores[i] = _dot(query, keys + 4 * i * size, whole) * scale
    if whole * LANES < size:
        q, k = carray(_at(query), (size,)), carray(_at(keys), (count, size))
        for i in range(count):
            more = ZERO
            for d in range(whole * LANES, size):
                more += q[d] * k[i, d]
            scores[i] += more * scale


@njit(fastmath=FAST)
def _add_weighed(weights, values, count, size, out):
    """out (size,) += weights (count,) @ values (count, size)."""
    whole = size // LANES
    for i in range(whole):
        first = 4 * i * LANES
        _weigh(weights, values + first, 4 * size, count, out + first)
    if whole * LANES < size:
        w, v = carray(_at(weights), (count,)), carray(_at(values), (count, size))
        sums = carray(_at(out), (size,))
        for i in range(count):
            for d in range(whole * LANES, size):
                sums[d] += w[i] * v[i, d]


@njit(fastmath=FAST)
def softmax(out, count, cap):
    """Scores (count,) to weights, in place; what their sum is to be divided by, upside down."""
    scores = carray(_at(out), (count,))
    if cap > ZERO:
        for i in range(count):
            scores[i] = cap * (ONE - TWO / (_exp(scores[i] * (TWO / cap)) + ONE))
    top = scores[0]
    for i in range(count):
        top = max(top, scores[i])
    total = ZERO
    for i in range(count):
        weight = _exp(scores[i] - top)
        scores[i] = weight
        total += weight
    return ONE / total


@njit
def _copy(source, target, size):
    theirs, ours = carray(_at(source), (size,)), carray(_at(target), (size,))
    for d in range(size):
        ours[d] = theirs[d]


@njit
def _fetch(keys, values, size):
    """Have the cache fetch so many bytes of each."""
    for place in range(0, size, LINE):
        _prefetch(keys + place)
        _prefetch(values + place)


@njit(fastmath=FAST)
def _look(query, near, near_count, own, own_count, size, scale, cap, scores, out):
    """One query's output; near, own: addresses of keys and of values, and how many it sees."""
    _products(query, near[0], near_count, size, scale, scores)
    _products(query, own[0], own_count, size, scale, scores + 4 * near_count)
    part = softmax(scores, near_count + own_count, cap)
    sums = carray(_at(out), (size,))
    for d in range(size):
        sums[d] = ZERO
    _add_weighed(scores, near[1], near_count, size, out)
    _add_weighed(scores + 4 * near_count, own[1], own_count, size, out)
    for d in range(size):
        sums[d] *= part


@njit
def _begins(tensor, row, head):
    """The address of a row's head, in a tensor of (address, numbers from row to row, from head to
    head)."""
    return tensor[0] + 4 * (row * tensor[1] + head * tensor[2])


@njit
def _unseen(shared, own, window):
    """How many of the first keys, of a context and of its row's own, a window leaves out."""
    if window == 0:
        return 0, 0
    return min(shared, max(0, shared + own + 1 - window)), max(0, own + 1 - window)


_I, _F = types.int64, types.float32


def _kept(function):
    """Compiled, and kept for other processes where there is a folder to keep it in."""
    signature = types.void(*[_I] * 19, _F, _F, _I)
    try:
        return cfunc(signature, fastmath=FAST, cache=True)(function)
    except RuntimeError:
        return cfunc(signature, fastmath=FAST)(function)


@_kept
def _attend(
    begin, stop, query, query_row, query_head, key, key_row, key_head,
    value, value_row, value_head, out, table, work, parts,
    heads, kv_heads, size, window, scale, cap, scores,
):  # fmt: skip
    """Rows begin to stop of a step: stores their new keys and values, and attends.

    query, key, value  addresses of (rows, heads, size), and how many numbers rows and heads are
                       apart; out: likewise, without gaps
    table              (roles, 6) int64, see `addresses`
    work               (parts, 5) int64, the step's rows role by role: the role, how many, and
                       where it says what context each goes on from, how many tokens it reads of
                       that and how many are in its own columns
    window, cap        0: none
    scores             room for as many numbers as a row sees
    """
    buffers, roles = carray(_ints_at(table), (ROLES, 6)), carray(_ints_at(work), (parts, 5))
    queries, outs = (query, query_row, query_head), (out, heads * size, size)
    new_keys, new_values = (key, key_row, key_head), (value, value_row, value_head)
    group, wide, first = heads // kv_heads, 4 * size, 0
    for part in range(parts):
        role, count = roles[part, 0], roles[part, 1]
        contexts = carray(_ints_at(roles[part, 2]), (count,))
        shared = carray(_ints_at(roles[part, 3]), (count,))
        own = carray(_ints_at(roles[part, 4]), (count,))
        near_keys, near_values, own_keys, own_values = buffers[role, :4]
        row, last = max(begin - first, 0), min(stop - first, count)
        while row < last:
            end = row + 1
            while end < last and contexts[end] == contexts[row]:
                end += 1
            for head in range(kv_heads):
                near = (contexts[row] * kv_heads + head) * buffers[role, 4] * wide
                for place in range(row, end):
                    mine = (place * kv_heads + head) * buffers[role, 5] * wide
                    keys, values = own_keys + mine, own_values + mine
                    if place + 1 < end:
                        ahead = kv_heads * buffers[role, 5] * wide
                        _fetch(keys + ahead, values + ahead, own[place + 1] * wide)
                    new = own[place] * wide
                    _copy(_begins(new_keys, first + place, head), keys + new, size)
                    _copy(_begins(new_values, first + place, head), values + new, size)
                    far, old = _unseen(shared[place], own[place], window)
                    for h in range(head * group, (head + 1) * group):
                        _look(
                            _begins(queries, first + place, h),
                            (near_keys + near + far * wide, near_values + near + far * wide),
                            shared[place] - far,
                            (keys + old * wide, values + old * wide),
                            own[place] + 1 - old,
                            size, scale, cap, scores, _begins(outs, first + place, h),
                        )  # fmt: skip
            row = end
        first += count


attend = _attend.ctypes
