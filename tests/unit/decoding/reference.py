"""Guided decoding the slow, obvious way: no cache, one row, no padding, float64 combination.

It shares with the engine only the noise (tested on its own) and the models' weights.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import peft
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from factory.guidance import Guidance, Sampling
from workers.decoding import Request
from workers.decoding.sampling import Noise, noise_keys


@dataclass(frozen=True)
class Apart:
    """Merged copies of an adapter tuned on accepted texts and of one tuned on rejected texts."""

    accepted: PreTrainedModel
    rejected: PreTrainedModel
    weight: float
    cap: float


@dataclass(frozen=True)
class Reference:
    """Two plain models: the expert is a merged copy when it is an adapter. apart: steer too."""

    expert: PreTrainedModel
    base: PreTrainedModel
    apart: Apart | None = None

    @classmethod
    def load(cls, folder: Path, kind: str) -> "Reference":
        base = plain_model(folder / "base")
        if kind == "full":
            return cls(plain_model(folder / "full"), base)
        fresh = plain_model(folder / "base")
        adapted = peft.PeftModel.from_pretrained(fresh, str(folder / "lora"))
        return cls(adapted.merge_and_unload().eval(), base)


def plain_model(folder: Path) -> PreTrainedModel:
    """With the attention written out in the model's own file."""
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


@dataclass(frozen=True)
class Step:
    """One choice: the token, every score, and how near each token was to a mask's edge."""

    token: int
    scores: np.ndarray
    noisy: np.ndarray
    edge: float
    survivors: int
    parts: dict[str, float]


def log_probs(model: PreTrainedModel, ids: Sequence[int], banned: Sequence[int]) -> np.ndarray:
    with torch.no_grad():
        return log_probs_of(model(torch.tensor([list(ids)])).logits[0, -1], banned)


def log_probs_of(last: torch.Tensor, banned: Sequence[int]) -> np.ndarray:
    logits = last.double().numpy()
    logits[list(banned)] = -np.inf
    best = logits.max()
    return logits - best - math.log(np.exp(logits - best).sum())


def step(
    models: Reference,
    request: Request,
    tokens: Sequence[int],
    guidance: Guidance,
    sampling: Sampling,
    eos: frozenset[int],
    banned: Sequence[int],
) -> Step:
    """Choose the token after `tokens`."""
    e = log_probs(models.expert, [*request.prompt_ids, *tokens], banned)
    b = log_probs(models.base, [*request.prompt_ids, *tokens], banned)
    parts, n, c = {"expert": e}, None, e
    if guidance.gamma != 0:
        parts["base"] = b
    if request.negative_ids and guidance.eta != 0:
        if guidance.rule == "avoidance":
            n = likeness(request, tokens, len(e), eos)
        elif guidance.rule == "correlated":
            other = request.negative_ids[len(request.prompt_ids) : request.negative_spans[0]]
            place = [*request.prompt_ids, *other[: len(tokens)]]
            n = e if len(tokens) > len(other) else log_probs(models.expert, place, banned)
        else:
            n = log_probs(models.expert, [*request.negative_ids, *tokens], banned)
        parts["negative"] = n
        if request.center_ids and guidance.rule != "paper":
            c = parts["center"] = log_probs(models.expert, [*request.center_ids, *tokens], banned)
    keep, edge = plausible(e, guidance)
    with np.errstate(invalid="ignore"):
        if guidance.rule == "paper":
            scores = (1 + guidance.gamma) * e - guidance.gamma * b
            scores = scores if n is None else scores - guidance.eta * n
        else:
            own = -b if guidance.rule == "contrastive" else e - b
            scores = e if guidance.gamma == 0 else e + guidance.gamma * own
            away = n if guidance.rule == "avoidance" or n is None else n - c
            scores = scores if away is None else scores - guidance.eta * away
    if models.apart is not None and request.learned:
        parts["adapters"] = apart(models.apart, [*request.prompt_ids, *tokens], e, keep, banned)
        scores = scores + parts["adapters"]
    scores = np.where(keep, scores, -np.inf)
    token, noisy, sampling_edge = draw(scores, sampling, request.seed, len(tokens))
    chosen = {name: float(x[token]) for name, x in parts.items()}
    return Step(token, scores, noisy, min(edge, sampling_edge), int(keep.sum()), chosen)


def apart(
    models: Apart, ids: Sequence[int], e: np.ndarray, keep: np.ndarray, banned: Sequence[int]
) -> np.ndarray:
    """ρ(A − R) of kept tokens: ρ halved into until the cap holds."""
    a, r = (log_probs(model, ids, banned) for model in (models.accepted, models.rejected))
    p, f = np.exp(e[keep] - np.log(np.exp(e[keep]).sum())), (a[keep] - r[keep])

    def moved(rho: float) -> float:
        q = p * np.exp(rho * f)
        q /= q.sum()
        return float((q * np.log(q / p)).sum())

    low, high = 0.0, models.weight
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (middle, high) if moved(middle) <= models.cap else (low, middle)
    rho = models.weight if moved(models.weight) <= models.cap else low
    term = np.zeros(len(e))
    term[keep] = rho * f
    return term


def likeness(
    request: Request, tokens: Sequence[int], vocab: int, eos: frozenset[int]
) -> np.ndarray:
    """Of every token: the longest end of the text, with it, that stands in a document; of 4 tokens
    at most, in fourths."""
    bounds = [0, *np.cumsum(request.negative_spans).tolist()]
    documents = [request.negative_ids[a:b] for a, b in pairwise(bounds)]
    found = np.zeros(vocab)
    runs = {d[i : i + n] for d in documents for n in range(1, 5) for i in range(len(d) - n + 1)}
    for token in set(range(vocab)) - eos:
        ends = [tuple([*tokens, token][-length:]) for length in range(1, 5)]
        found[token] = max((len(end) for end in ends if end in runs), default=0) / 4
    return found


def plausible(e: np.ndarray, guidance: Guidance) -> tuple[np.ndarray, float]:
    """The mask, and how near (in probability or log α) the nearest token is to its edge."""
    keep, edge = np.isfinite(e), math.inf
    if guidance.alpha > 0:
        distance = e - (e.max() + math.log(guidance.alpha))
        keep, edge = keep & (distance >= 0), float(np.abs(distance).min())
    if guidance.mass < 1:
        inside, near = top_mass(np.exp(e), guidance.mass)
        keep, edge = keep & inside, min(edge, near)
    return keep, edge


def top_mass(p: np.ndarray, mass: float) -> tuple[np.ndarray, float]:
    order = sorted(range(len(p)), key=lambda token: (-p[token], token))
    keep, total, edge = np.zeros(len(p), dtype=bool), 0.0, math.inf
    for token in order:
        edge = min(edge, abs(total - mass))
        if total >= mass:
            break
        keep[token] = True
        total += p[token]
    ranked = np.sort(p)[::-1]
    last = int(keep.sum())
    if 0 < last < len(p):
        edge = min(edge, float(ranked[last - 1] - ranked[last]) or math.inf)
    return keep, edge


def draw(
    scores: np.ndarray, sampling: Sampling, seed: int, position: int
) -> tuple[int, np.ndarray, float]:
    if sampling.temperature == 0:
        return int(scores.argmax()), scores, math.inf
    x, edge = scores / sampling.temperature, math.inf
    if 0 < sampling.top_k < len(x):
        order = sorted(range(len(x)), key=lambda token: (-x[token], token))
        kept, cut = order[: sampling.top_k], order[sampling.top_k]
        if np.isfinite(x[cut]):
            edge = min(edge, float(x[kept[-1]] - x[cut]) or math.inf)
        x = np.where(np.isin(np.arange(len(x)), kept), x, -np.inf)
    p = np.exp(x - x.max())
    if sampling.top_p < 1:
        keep, near = top_mass(p / p.sum(), sampling.top_p)
        edge = min(edge, near)
        x = np.where(keep, x, -np.inf)
    if sampling.min_p > 0:
        ratio = np.exp(x - x.max())
        edge = min(edge, float(np.abs(ratio - sampling.min_p).min()))
        x = np.where(ratio >= sampling.min_p, x, -np.inf)
    keys = noise_keys(torch.tensor([seed]), torch.tensor([position]))
    noise = Noise(len(x), torch.device("cpu")).gumbel(keys)[0].double().numpy()
    return int((x + noise).argmax()), x + noise, edge


def decode(
    models: Reference,
    request: Request,
    guidance: Guidance,
    sampling: Sampling,
    eos: frozenset[int],
    banned: Sequence[int],
) -> tuple[list[int], str, list[Step]]:
    """(token ids, finish reason, steps) of one request."""
    tokens: list[int] = []
    steps: list[Step] = []
    while len(tokens) < sampling.max_new_tokens:
        steps.append(step(models, request, tokens, guidance, sampling, eos, banned))
        if steps[-1].token in eos:
            return tokens, "eos", steps
        tokens.append(steps[-1].token)
    return tokens, "length", steps
