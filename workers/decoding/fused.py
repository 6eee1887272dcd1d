"""Combining, masking and drawing in one Triton kernel, for CUDA; `guidance.steer` and
`sampling.draw` are its reference. Imported only where it is used: triton comes with CUDA's torch.

A program works on one row of the vocabulary. It finds the nucleus' edge without a sort: bit by
bit, as the largest probability such that those not below it hold the mass.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from factory.guidance import Guidance, Sampling

from .guidance import FLOOR

BLOCK = 4096  # tokens looked at together


def choose(
    streams: dict[str, Tensor],
    slots: Tensor,
    present: Tensor,
    keys: Tensor,
    tokens: Tensor,
    guidance: Guidance,
    sampling: Sampling,
) -> Tensor:
    """Draw a token for each row; `sampling` has no top-k, top-p and min-p.

    streams  logits (any, V) float32 by role, banned tokens at MASKED
    slots    (n,) int64, where a row's logits are
    present  (n,) int64, bits 1, 2, 4: whether the row has a base, negative, centre stream
    keys     (n, 2) int32 of `noise_keys`; tokens: `Noise.tokens`
    Returns (n, 9) float32: token, E, B, N, C, score of it, the token that the same noise picks
    from the masked expert, tokens that passed the mask, 1 if all streams are finite else 0.
    """
    expert = streams["expert"]
    out = torch.empty(len(slots), 9, device=expert.device)
    _choose[(len(slots),)](
        *(streams.get(role, expert) for role in ("expert", "base", "negative", "center")),
        slots,
        present,
        keys,
        tokens,
        out,
        expert.shape[1],
        guidance.gamma,
        guidance.eta,
        math.log(guidance.alpha) if guidance.alpha > 0 else -math.inf,
        guidance.mass,
        sampling.temperature or 1.0,
        BASE=guidance.uses_base and "base" in streams,
        NEGATIVE=guidance.uses_negative and "negative" in streams,
        CENTER=guidance.uses_negative and guidance.rule == "steer" and "center" in streams,
        PAPER=guidance.rule == "paper",
        NUCLEUS=guidance.mass < 1,
        NOISE=sampling.temperature > 0,
        FLOOR=FLOOR,
        BLOCK=min(BLOCK, triton.next_power_of_2(expert.shape[1])),
        num_warps=8,
    )
    return out


@triton.jit
def _norm(row, size, BLOCK: tl.constexpr):
    """log Σ exp of a row; NaN or infinite when the row is not finite."""
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    for start in range(0, size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        best = tl.maximum(best, tl.load(row + at, mask=at < size, other=float("-inf")))
    top = tl.max(best, axis=0)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.exp(tl.load(row + at, mask=at < size, other=float("-inf")) - top)
    return top + tl.log(tl.sum(total, axis=0))


@triton.jit
def _log_probs(row, norm, at, size, FLOOR: tl.constexpr):
    """Log-probabilities of the tokens `at`, never below FLOOR; beyond the vocabulary −inf."""
    values = tl.load(row + at, mask=at < size, other=float("-inf")) - norm
    return tl.where(at < size, tl.maximum(values, FLOOR), float("-inf"))


@triton.jit
def _mix(x):
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def _gumbel(token, first, second):
    """−log(−log(1 − v)) of the hash of token and keys, as `sampling.Noise` has it (uint32)."""
    bits = _mix(_mix(token ^ first) + second)
    v = ((bits & 0x7FFFFFFF).to(tl.int32).to(tl.float32) + 0.5) * (1 / 2147483648)
    v = tl.minimum(v, 1 - 1 / 16777216)
    rest = 1 - v  # log(1 − v), also where 1 − v has lost what v was
    log = tl.where(rest == 1, -v, tl.log(rest) * (v / tl.where(rest == 1, 1.0, 1 - rest)))
    return -tl.log(-log)


@triton.jit
def _stream(row, has, norm, ok, size, RUN: tl.constexpr, BLOCK: tl.constexpr):
    """The norm of a stream that may be missing (then the expert's), and whether all are finite."""
    if RUN:
        if has:
            norm = _norm(row, size, BLOCK)
            ok &= tl.abs(norm) < float("inf")
    return norm, ok


@triton.jit
def _highest(row, norm, size, FLOOR: tl.constexpr, BLOCK: tl.constexpr):
    """The largest log-probability of a row."""
    highest = tl.full([BLOCK], float("-inf"), tl.float32)
    for start in range(0, size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        highest = tl.maximum(highest, _log_probs(row, norm, at, size, FLOOR))
    return tl.max(highest, axis=0)


@triton.jit
def _nucleus(row, norm, mass, size, FLOOR: tl.constexpr, BLOCK: tl.constexpr):
    """The probability at the nucleus' edge, as its bits (they order as it does), and how many of
    the tokens at the edge belong to the nucleus."""
    edge = tl.full([], 0, tl.int32)
    for step in range(15):
        part = tl.full([], 1, tl.int32) << (28 - 2 * step)
        s1 = tl.zeros([BLOCK], tl.float32)
        s2 = tl.zeros([BLOCK], tl.float32)
        s3 = tl.zeros([BLOCK], tl.float32)
        for start in range(0, size, BLOCK):
            at = start + tl.arange(0, BLOCK)
            p = tl.exp(_log_probs(row, norm, at, size, FLOOR))
            bits = p.to(tl.int32, bitcast=True)
            s1 += tl.where(bits >= edge + part, p, 0.0)
            s2 += tl.where(bits >= edge + 2 * part, p, 0.0)
            s3 += tl.where(bits >= edge + 3 * part, p, 0.0)
        reached = (tl.sum(s1, axis=0) >= mass).to(tl.int32)
        reached += (tl.sum(s2, axis=0) >= mass).to(tl.int32)
        reached += (tl.sum(s3, axis=0) >= mass).to(tl.int32)
        edge += reached * part
    above = tl.zeros([BLOCK], tl.float32)
    for start in range(0, size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        p = tl.exp(_log_probs(row, norm, at, size, FLOOR))
        above += tl.where(p.to(tl.int32, bitcast=True) > edge, p, 0.0)
    lacking = (mass - tl.sum(above, axis=0)) / edge.to(tl.float32, bitcast=True)
    room = tl.where(lacking < size, tl.ceil(tl.minimum(lacking, size * 1.0)).to(tl.int32), size)
    return edge, room


@triton.jit
def _choose(
    expert, base, negative, center, slots, present, keys, tokens, out,
    size, gamma, eta, alpha, mass, temperature,
    BASE: tl.constexpr, NEGATIVE: tl.constexpr, CENTER: tl.constexpr, PAPER: tl.constexpr,
    NUCLEUS: tl.constexpr, NOISE: tl.constexpr,
    FLOOR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    place = tl.load(slots + row) * size
    flags = tl.load(present + row)
    has_b, has_n, has_c = (flags & 1) != 0, (flags & 2) != 0, (flags & 4) != 0
    expert, base, negative, center = expert + place, base + place, negative + place, center + place
    e_norm = _norm(expert, size, BLOCK)
    ok = tl.abs(e_norm) < float("inf")
    b_norm, ok = _stream(base, has_b, e_norm, ok, size, BASE, BLOCK)
    n_norm, ok = _stream(negative, has_n, e_norm, ok, size, NEGATIVE, BLOCK)
    c_norm, ok = _stream(center, has_c, e_norm, ok, size, CENTER, BLOCK)

    floor = _highest(expert, e_norm, size, FLOOR, BLOCK) + alpha
    edge, room = tl.full([], 0, tl.int32), tl.full([], 0, tl.int32)
    if NUCLEUS:
        edge, room = _nucleus(expert, e_norm, mass, size, FLOOR, BLOCK)

    first = tl.load(keys + 2 * row).to(tl.uint32, bitcast=True)
    second = tl.load(keys + 2 * row + 1).to(tl.uint32, bitcast=True)
    best, chosen = tl.full([], float("-inf"), tl.float32), tl.full([], 0, tl.int32)
    plain, unguided = tl.full([], float("-inf"), tl.float32), tl.full([], 0, tl.int32)
    survivors, seen = tl.full([], 0, tl.int32), tl.full([], 0, tl.int32)
    score_of = tl.full([], 0.0, tl.float32)
    for start in range(0, size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        e = _log_probs(expert, e_norm, at, size, FLOOR)
        keep = (e > FLOOR) & (e >= floor)
        if NUCLEUS:
            bits = tl.exp(e).to(tl.int32, bitcast=True)
            equal = ((bits == edge) & (at < size)).to(tl.int32)
            keep &= (bits > edge) | ((equal == 1) & (seen + tl.cumsum(equal, axis=0) <= room))
            seen += tl.sum(equal, axis=0)
        survivors += tl.sum(keep.to(tl.int32), axis=0)
        score = e
        if PAPER:
            score = (1 + gamma) * e
        if BASE:
            b = _log_probs(base, b_norm, at, size, FLOOR)
            score = tl.where(has_b, score - gamma * b if PAPER else score + gamma * (e - b), score)
        if NEGATIVE:
            n = _log_probs(negative, n_norm, at, size, FLOOR)
            c = e
            if CENTER:
                c = tl.where(has_c, _log_probs(center, c_norm, at, size, FLOOR), e)
            score = tl.where(has_n, score - eta * n if PAPER else score - eta * (n - c), score)
        noise = tl.zeros([BLOCK], tl.float32)
        if NOISE:
            hashed = tl.load(tokens + at, mask=at < size, other=0).to(tl.uint32, bitcast=True)
            noise = _gumbel(hashed, first, second)
        guided = tl.where(keep, score / temperature + noise, float("-inf"))
        alone = tl.where(keep, e / temperature + noise, float("-inf"))
        i = tl.argmax(guided, axis=0)
        if tl.max(guided, axis=0) > best:
            best = tl.max(guided, axis=0)
            chosen = start + i
            score_of = tl.sum(tl.where(at == start + i, score, 0.0), axis=0)
        if tl.max(alone, axis=0) > plain:
            plain = tl.max(alone, axis=0)
            unguided = start + tl.argmax(alone, axis=0)

    out += row * 9
    tl.store(out, chosen.to(tl.float32))
    tl.store(out + 1, tl.maximum(tl.load(expert + chosen) - e_norm, FLOOR))
    tl.store(out + 2, tl.maximum(tl.load(base + chosen) - b_norm, FLOOR))
    tl.store(out + 3, tl.maximum(tl.load(negative + chosen) - n_norm, FLOOR))
    tl.store(out + 4, tl.maximum(tl.load(center + chosen) - c_norm, FLOOR))
    tl.store(out + 5, score_of)
    tl.store(out + 6, unguided.to(tl.float32))
    tl.store(out + 7, survivors.to(tl.float32))
    tl.store(out + 8, ok.to(tl.float32))
