"""Why each token of a sample was chosen: its trace, and what was likeliest in its place."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from workers.decoding import Request, SteerDecoder, Steered, Trace
from workers.pairs import LoadedPair

LIKELIEST = 5  # tokens named of each place, with guidance and without
STREAMS = ("expert", "base", "negative", "center")


def explained(pair: LoadedPair, trace: Trace) -> list[dict[str, Any]]:
    """Each token with its log-probability in every stream (None: not run) and its score."""
    return [
        {
            "token": pair.pieces[trace.tokens[i]],
            "token_id": int(trace.tokens[i]),
            **{name: _at(getattr(trace, name), i) for name in STREAMS},
            "verdict_head": _at(trace.head, i),
            "adapters": _at(trace.adapters, i),
            "score": float(trace.scores[i]),
            "unguided": pair.pieces[trace.unguided[i]],
            "survivors": int(trace.survivors[i]),
        }
        for i in range(len(trace.tokens))
    ]


def likeliest(
    decoder: SteerDecoder, pair: LoadedPair, request: Request, tokens: Sequence[int]
) -> list[dict[str, Any]]:
    """What could have stood in the place of each of these tokens: the likeliest among the
    plausible ones, with guidance and without, and how likely the token itself was.

    Natural log-probabilities before temperature and the filters of drawing. The decoder is to
    have one slot.
    """
    among = decoder.along(request, tokens)
    return [_likeliest(pair, step, int(token)) for step, token in zip(among, tokens, strict=False)]


def _likeliest(pair: LoadedPair, step: Steered, token: int) -> dict[str, Any]:
    keep = step.keep[0]
    sides = {"guided": _normal(step.scores[0], keep), "unguided": _normal(step.expert[0], keep)}
    drawn = {side: float(row[token]) if keep[token] else None for side, row in sides.items()}
    return {side: _top(pair, row, keep) for side, row in sides.items()} | {"drawn": drawn}


def _normal(scores: Tensor, keep: Tensor) -> Tensor:
    """(V,) scores to log-probabilities among the tokens that are kept."""
    return torch.log_softmax(scores.masked_fill(~keep, -torch.inf), dim=-1)


def _top(pair: LoadedPair, row: Tensor, keep: Tensor) -> list[dict[str, Any]]:
    best = row.topk(min(LIKELIEST, int(keep.sum())))
    return [
        {"token": pair.pieces[i], "log_probability": round(value, 4)}
        for value, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def _at(values: Any, position: int) -> float | None:
    return None if values is None else float(values[position])
