"""Drawing tokens from scores: temperature, top-k, top-p, min-p, typical, then Gumbel noise.

The noise is a stateless hash of (seed, position, token): a row's draws do not depend on its
neighbours, its slot, the batch or the device. argmax(score + Gumbel noise) is a draw from
softmax(score) (Gumbel 1954; "Gumbel-max trick").
"""

import torch
from torch import Tensor
from transformers import TypicalLogitsWarper

from factory.guidance import Sampling
from workers.streams import MASKED

from .guidance import first, nucleus


def draw(scores: Tensor, sampling: Sampling, noise: Tensor | None) -> Tensor:
    """(B, V) scores to (B,) token ids. Tokens at MASKED are never drawn.

    noise (B, V) from `Noise`; None or temperature 0: the best score, lower id on ties.
    """
    if sampling.temperature == 0 or noise is None:
        return scores.argmax(dim=-1)
    logits = scores if sampling.temperature == 1 else scores / sampling.temperature
    if sampling.filters:
        keep = _allowed(logits.masked_fill(scores <= MASKED, -torch.inf), sampling)
        logits = logits.masked_fill(~keep, -torch.inf)
    return (logits + noise).argmax(dim=-1)


def _allowed(logits: Tensor, sampling: Sampling) -> Tensor:
    """(B, V) logits (−inf: masked) to bool, after top-k, top-p, min-p and typical in this order.

    Equal tokens at an edge: the lower id first (typical: all of them). One token always stays.
    """
    keep = logits > -torch.inf
    if 0 < sampling.top_k < logits.shape[-1]:
        edge = logits.topk(sampling.top_k, dim=-1).values[:, -1:]
        keep &= first(logits, edge, torch.full_like(edge, sampling.top_k, dtype=torch.long))
    if sampling.top_p < 1:
        p = logits.masked_fill(~keep, -torch.inf).softmax(dim=-1)
        keep &= nucleus(p, sampling.top_p)
    if sampling.min_p > 0:
        # p ≥ min_p · max p, in logits: the best token passes top-k and top-p, so max p is its own
        best = logits.amax(dim=-1, keepdim=True)
        keep &= (logits - best).exp() >= sampling.min_p
    if sampling.typical_p < 1:
        left = logits.masked_fill(~keep, -torch.inf)
        typical = TypicalLogitsWarper(mass=sampling.typical_p)
        keep = typical(None, left) > -torch.inf
    return keep


class Noise:
    """Gumbel noise over a vocabulary; holds only the hash of every token id, (V,) int32."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        tokens = torch.arange(1, vocab_size + 1, dtype=torch.int64, device=device)
        self.tokens = _mix(_to_int32(tokens * 0x9E3779B9))

    def gumbel(self, keys: Tensor, keep: Tensor | None = None) -> Tensor:
        """(B, 2) int32 keys from `noise_keys` to (B, V) float32 noise; keep (B, V) bool: 0 for the
        others, which are mostly far more."""
        if keep is None:
            return _noise(self.tokens, keys[:, :1], keys[:, 1:])
        rows, ids = keep.nonzero(as_tuple=True)
        noise = torch.zeros(keep.shape, device=keep.device)
        noise[rows, ids] = _noise(self.tokens[ids], *keys[rows].unbind(dim=1))
        return noise


def noise_keys(seeds: Tensor, positions: Tensor) -> Tensor:
    """int64 seeds and positions (0 is the first generated token), of shapes that broadcast to
    (…), to (…, 2) int32 keys."""
    z = _splitmix(_splitmix(seeds) + positions)
    return torch.stack((_to_int32(z), _to_int32(z >> 32)), dim=-1)


def _noise(tokens: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Gumbel noise of tokens' hashes and the two halves of keys, which broadcast."""
    return _gumbel(_mix(_mix(tokens ^ first).add_(second)))


def _gumbel(bits: Tensor) -> Tensor:
    """int32 hashes to standard Gumbel float32: −log(−log(1 − v)), v uniform in (0, 1).

    v has steps of 2**-31 near 0, where the winners of a draw lie; it never rounds to 1.
    """
    v = (bits & 0x7FFFFFFF).to(torch.float32)
    v = v.add_(0.5).mul_(2.0**-31).clamp_(max=1 - 2.0**-24)
    return torch.log1p(v.neg_()).neg_().log_().neg_()


def _mix(x: Tensor) -> Tensor:
    """A bijection of int32 in which every input bit changes half of the output bits."""
    x = _shift(x, 16).bitwise_xor_(x).mul_(0x7FEB352D)
    x = _shift(x, 15).bitwise_xor_(x).mul_(0x846CA68B - (1 << 32))
    return _shift(x, 16).bitwise_xor_(x)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int32."""
    return (x >> bits).bitwise_and_((1 << (32 - bits)) - 1)


def _splitmix(x: Tensor) -> Tensor:
    """SplitMix64's step and finaliser (Steele et al. 2014) on int64, wrapping."""
    z = x + _signed(0x9E3779B97F4A7C15)
    z = (z ^ ((z >> 30) & ((1 << 34) - 1))) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ ((z >> 27) & ((1 << 37) - 1))) * _signed(0x94D049BB133111EB)
    return z ^ ((z >> 31) & ((1 << 33) - 1))


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _to_int32(x: Tensor) -> Tensor:
    """The low 32 bits of int64, as int32."""
    low = x & 0xFFFFFFFF
    return torch.where(low >= 1 << 31, low - (1 << 32), low).to(torch.int32)
