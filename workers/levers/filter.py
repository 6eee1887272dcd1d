"""The filter: a logistic regression on embeddings that ranks finished texts.

It keeps a text whose score is at least that which the best share of the reviewed texts had while
they were held out. Scores are absolute, so each text is judged as it is finished, whatever comes
after it, and keeps its ordinal; over-generation is a matter of the job's count.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from workers.levers.sanity import Sanity, Verdicts, compare, folds, shuffles, too_few

Vectors = NDArray[np.float32]
STRENGTH = 10.0  # inverse of the L2 shrinkage; embeddings have unit length


@dataclass(frozen=True, eq=False)
class Filter:
    """weights (D,) and bias: the log-odds that a text is accepted; held_out (N,): what the
    reviewed texts scored while held out, ascending."""

    weights: Vectors
    bias: float
    held_out: Vectors

    def scores(self, vectors: Vectors) -> Vectors:
        """(B, D) unit vectors to (B,) log-odds."""
        return (vectors @ self.weights + self.bias).astype(np.float32)

    def threshold(self, keep: float) -> float:
        """The score that the best `keep` share of the reviewed texts reach."""
        return float(np.quantile(self.held_out, 1 - keep))


@dataclass(frozen=True)
class FittedFilter:
    """A filter, how well it foretells verdicts, and why it should not be used, if so."""

    filter: Filter | None
    sanity: Sanity | None
    refused: str | None


def fit_filter(vectors: Vectors, accepted: Sequence[bool], *, seed: int = 0) -> FittedFilter:
    """Fit on (N, D) unit vectors of reviewed texts. `filter` is None, and `refused` says why,
    with too few verdicts, or when it does no better than on shuffled ones."""
    if why := too_few(accepted):
        return FittedFilter(None, None, why)
    truth = np.array(accepted, dtype=bool)
    verdicts = [truth, *shuffles(truth, seed)]
    held_out = [_held_out(vectors, said, seed) for said in verdicts]
    sanity = compare(verdicts, [list(scores) for scores in held_out])
    model = _fit(vectors, truth)
    weights, bias = model.coef_[0].astype(np.float32), float(model.intercept_[0])
    found = Filter(weights, bias, np.sort(held_out[0]))
    return FittedFilter(None if sanity.refusal else found, sanity, sanity.refusal)


def _held_out(vectors: Vectors, accepted: Verdicts, seed: int) -> Vectors:
    """(N,) scores, each by a model that has not seen the text."""
    part = np.array(folds(accepted, seed))
    scores = np.zeros(len(vectors), dtype=np.float32)
    for number in range(part.max() + 1):
        out = part == number
        scores[out] = _fit(vectors[~out], accepted[~out]).decision_function(vectors[out])
    return scores


def _fit(vectors: Vectors, accepted: Verdicts) -> LogisticRegression:
    return LogisticRegression(C=STRENGTH, max_iter=1000).fit(vectors, accepted)
