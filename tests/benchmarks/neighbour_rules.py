"""Two published rules under which a sample depends on the others beside it. For studies only.

CorrSynth contrasts each row with the others at every step, avoidance decoding penalises what is
like the outputs before. They are no rules of a job: to make one sample again, all that stood
beside it would have to be made again step by step, and another worker, batch or a crash would
change what comes out. What both are after, moving away from what exists, a job does by η with
recorded negatives, so that every sample can be made again alone.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from factory.guidance import Guidance, Sampling
from workers.decoding.guidance import MASKED, log_probs, plausible
from workers.decoding.sampling import Noise, draw, noise_keys

Texts = Sequence[Sequence[int]]
Rule = Callable[[Tensor, Texts], Tensor]
"""(M, V) log-probabilities of M rows, and each row's tokens so far, to (M, V) scores."""


def corrsynth_scores(rows: Tensor, gamma: float, delta: float) -> Tensor:
    """(M, V) log-probabilities to scores: row m is contrasted with all others.

    P_m^γ / ∏_{n≠m} P_n^((γ−δ)/(M−1)): CorrSynth with uniform weights (Kowshik et al., arXiv
    2411.08553). δ is what a row keeps when all rows agree; γ = δ contrasts nothing.
    """
    others = len(rows) - 1
    if others == 0:
        return delta * rows
    rest = rows.sum(dim=0, keepdim=True) - rows
    return gamma * rows - (gamma - delta) / others * rest


def corrsynth(gamma: float, delta: float) -> Rule:
    """The rule for `decode`."""
    return lambda rows, _: corrsynth_scores(rows, gamma, delta)


def avoidance_penalty(
    embeddings: Tensor, tokens: Sequence[int], earlier: Texts, through: float
) -> Tensor:
    """(V,) in [−1, 1]: how like the earlier outputs a text gets with each token next.

    In the way of avoidance decoding (Park et al., arXiv 2509.02170): at first the token itself
    counts (cosine to the nearest token of each earlier output), later the text with it (cosine
    of mean embeddings); `through` in [0, 1] is how far the text is. `embeddings` (V, D) are of
    unit length. The published form takes sentence encoders; this one the model's own embeddings.
    """
    if not earlier:
        return torch.zeros(len(embeddings))
    concept = torch.stack([(embeddings @ embeddings[list(o)].T).amax(-1) for o in earlier]).mean(0)
    means = _unit(torch.stack([embeddings[list(o)].mean(0) for o in earlier]))
    so_far = embeddings[list(tokens)].sum(0) if tokens else torch.zeros_like(embeddings[0])
    narrative = (_unit(embeddings + so_far) @ means.T).mean(-1)
    return (1 - through) * concept + through * narrative


def avoidance(embeddings: Tensor, earlier: Texts, weight: float, length: int) -> Rule:
    """The rule for `decode`: weight · penalty, in nats, off each score. `length`: of a text."""
    unit = _unit(embeddings.detach().float())

    def scores(rows: Tensor, texts: Texts) -> Tensor:
        through = [min(1.0, len(text) / length) for text in texts]
        pairs = zip(texts, through, strict=True)
        return rows - weight * torch.stack(
            [avoidance_penalty(unit, text, earlier, share) for text, share in pairs]
        )

    return scores


@torch.inference_mode()
def decode(
    model: PreTrainedModel,
    prompt_ids: Sequence[int],
    seeds: Sequence[int],
    rule: Rule,
    guidance: Guidance,
    sampling: Sampling,
    *,
    eos: frozenset[int],
    banned: Sequence[int] = (),
) -> list[list[int]]:
    """One text a seed, all rows step by step together; a row that has ended leaves the others.

    Only the mask of `guidance` is used. Without a cache: for models of a few million weights.
    """
    noise = Noise(int(model.config.vocab_size), torch.device("cpu"))
    texts: list[list[int]] = [[] for _ in seeds]
    live = list(range(len(seeds)))
    for position in range(sampling.max_new_tokens):
        if not live:
            break
        ids = torch.tensor([[*prompt_ids, *texts[row]] for row in live])
        logits = model(input_ids=ids, use_cache=False).logits[:, -1].float()
        logits[:, list(banned)] = MASKED
        rows = log_probs(logits)
        keep = plausible(rows, guidance.alpha, guidance.mass)
        scores = rule(rows, [texts[row] for row in live]).masked_fill(~keep, MASKED)
        keys = noise_keys(torch.tensor([seeds[row] for row in live]), torch.tensor(position))
        chosen = draw(scores, sampling, noise.gumbel(keys)).tolist()
        for row, token in zip(list(live), chosen, strict=True):
            if token in eos:
                live.remove(row)
            else:
                texts[row].append(token)
    return texts


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=-1)
