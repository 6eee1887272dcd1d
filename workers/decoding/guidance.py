"""The STEER rules: log-probabilities of the streams to scores. Pure functions on (B, V) rows.

Everything is float32 and in log space. A masked or banned token scores MASKED
(`finfo.min`), never −inf, so that no later difference gives NaN.
Sources: O'Neill et al., arXiv 2308.07645 (rule "paper"); Li et al., arXiv 2210.15097
(the α mask, rule "contrastive"); arXiv 2509.02170 and 2411.08553 (what rules "avoidance" and
"correlated" come from).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from factory.guidance import Guidance, Rule
from workers.streams import MASKED

CANDIDATES = (64, 1024, 16384)  # looked at first for a nucleus: a sort of all is slow
FLOOR = MASKED / 64  # of log-probabilities: weights up to 10 cannot turn it into infinity


@dataclass(frozen=True)
class Steered:
    """One step's scores and what they were made of: log-probabilities, all (B, V) float32."""

    scores: Tensor
    keep: Tensor  # bool: passed the plausibility mask and is not banned
    expert: Tensor
    base: Tensor | None
    negative: Tensor | None
    center: Tensor | None
    head: Tensor | None = None  # what a verdict head added to the scores
    adapters: Tensor | None = None  # and what adapters did


def steer_scores(
    expert: Tensor,
    base: Tensor | None,
    negative: Tensor | None,
    guidance: Guidance,
    center: Tensor | None = None,
) -> Tensor:
    """(B, V) logits of each stream to (B, V) float32 scores.

    `base` may be None when γ = 0; a missing `negative` leaves the η term out; a missing
    `center` means C = E. Tokens with logits at MASKED or −inf in the expert are banned.
    Raises ValueError when γ needs a base and there is none.
    """
    return steer(expert, base, negative, guidance, center).scores


def steer(
    expert: Tensor,
    base: Tensor | None,
    negative: Tensor | None,
    guidance: Guidance,
    center: Tensor | None = None,
) -> Steered:
    """`steer_scores` with its parts. A stream whose weight is 0 stays None. `negative` of the rule
    "avoidance" is no logits but likenesses, from 0 to 1, and taken as it is."""
    if guidance.uses_base and base is None:
        raise ValueError("base is missing: gamma is not 0, so the base's logits are needed")
    e = log_probs(expert)
    b = log_probs(base) if guidance.uses_base and base is not None else None
    n = negative if guidance.uses_negative else None
    if n is not None and guidance.rule != "avoidance":
        n = log_probs(n)
    centered = n is not None and guidance.uses_center
    c = log_probs(center) if centered and center is not None else None
    keep = plausible(e, guidance.alpha, guidance.mass)
    scores = RULES[guidance.rule](e, b, n, c, guidance)
    return Steered(torch.where(keep, scores, MASKED), keep, e, b, n, c)


def log_probs(logits: Tensor) -> Tensor:
    """(B, V) logits to float32 log-softmax, never below FLOOR."""
    return torch.log_softmax(logits.float(), dim=-1).clamp(min=FLOOR)


def plausible(expert: Tensor, alpha: float, mass: float) -> Tensor:
    """(B, V) log-probabilities to bool: tokens that may be chosen, decided on the expert alone.

    alpha  keep E ≥ max(E) + log α
    mass   keep the smallest set holding this mass of exp(E); the token that crosses it is
           kept; equal tokens at the edge: the lower id first
    Banned tokens (at FLOOR) are never kept.
    """
    keep = expert > FLOOR
    if alpha > 0:
        keep &= expert >= expert.amax(dim=-1, keepdim=True) + math.log(alpha)
    if mass < 1:
        keep &= nucleus(expert.exp(), mass)
    return keep


def nucleus(probabilities: Tensor, mass: float) -> Tensor:
    """(B, V) probabilities to bool: the smallest set holding `mass`, lower ids first on ties."""
    size = probabilities.shape[-1]
    for candidates in (*(n for n in CANDIDATES if n < size), size):
        ranked = probabilities.topk(candidates, dim=-1).values
        counts = (ranked.cumsum(dim=-1) - ranked < mass).sum(dim=-1, keepdim=True)
        if candidates == size or bool((counts < candidates).all()):
            break
    return first(probabilities, ranked.gather(-1, (counts - 1).clamp(min=0)), counts)


def first(values: Tensor, edge: Tensor, counts: Tensor) -> Tensor:
    """(B, V) to bool: the `counts` (B, 1) largest values, of which `edge` (B, 1) is the
    smallest; of those equal to the edge the lower ids."""
    above, equal = values > edge, values == edge
    room = counts - above.sum(dim=-1, keepdim=True)
    return above | (equal & (equal.cumsum(dim=-1) <= room))


def _paper(
    e: Tensor, b: Tensor | None, n: Tensor | None, c: Tensor | None, guidance: Guidance
) -> Tensor:
    """s = (1 + γ)E − γB − ηN, in the order of the authors' code."""
    scores = (1 + guidance.gamma) * e
    if b is not None:
        scores = scores - guidance.gamma * b
    if n is not None:
        scores = scores - guidance.eta * n
    return scores


def _steer(
    e: Tensor, b: Tensor | None, n: Tensor | None, c: Tensor | None, guidance: Guidance
) -> Tensor:
    """s = E + γ(E − B) − η(N − C), C = E when there is no centre."""
    scores = e
    if b is not None:
        scores = scores + guidance.gamma * (e - b)
    return _away(scores, e, n, c, guidance.eta)


def _contrastive(
    e: Tensor, b: Tensor | None, n: Tensor | None, c: Tensor | None, guidance: Guidance
) -> Tensor:
    """s = E − γB − η(N − C): what the base likes too does not count for a token."""
    return _away(e if b is None else e - guidance.gamma * b, e, n, c, guidance.eta)


def _avoidance(
    e: Tensor, b: Tensor | None, n: Tensor | None, c: Tensor | None, guidance: Guidance
) -> Tensor:
    """s = E + γ(E − B) − ηS, S in the place of N."""
    scores = _steer(e, b, None, None, guidance)
    return scores if n is None else scores - guidance.eta * n


def _away(scores: Tensor, e: Tensor, n: Tensor | None, c: Tensor | None, eta: float) -> Tensor:
    """Take η(N − C) away, C = E when there is no centre."""
    return scores if n is None else scores - eta * (n - (e if c is None else c))


Combine = Callable[[Tensor, Tensor | None, Tensor | None, Tensor | None, Guidance], Tensor]
RULES: Mapping[Rule, Combine] = {
    "steer": _steer,
    "paper": _paper,
    "contrastive": _contrastive,
    "avoidance": _avoidance,
    "correlated": _steer,
}
