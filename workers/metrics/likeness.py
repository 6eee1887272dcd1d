"""How like the real samples a set is, by sentence embeddings: (N, D) arrays of unit vectors.

MAUVE, AUROC, precision, recall and coverage depend on how many samples there are: give both
sides the same number, and compare with what one half of the real samples scores against the
other.
"""

from collections.abc import Callable

import mauve
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_limits

from workers.metrics.measure import (
    RESAMPLES,
    Array,
    Measure,
    bootstrap,
    half_samples,
    measured,
    unknown,
)

Statistic = Callable[[Array, Array], float]
Flags = NDArray[np.bool_]
Places = NDArray[np.intp]

LEAST = 20  # samples on each side, for what compares two distributions
NEIGHBOURS = 5
FOLDS = 5
MAUVE_LEAST = 80
MAUVE_HALVES = 20
CLUSTER_SIDE = 20  # members of a cluster from each side, on average
KNN_HALVES = 100


def cosine_centroid(made: Array, real: Array, seed: int) -> Measure:
    """Mean cosine of a sample to the centre of the real ones."""
    return _mean_cosine("cosine_centroid", made, real, seed, unit=True)


def cosine_pairwise(made: Array, real: Array, seed: int) -> Measure:
    """Mean cosine of a sample and a real one, over all pairs."""
    return _mean_cosine("cosine_pairwise", made, real, seed, unit=False)


def mauve_score(made: Array, real: Array, seed: int) -> Measure:
    """MAUVE (Pillutla et al., arXiv 2102.01454) with these embeddings as features: 0 to 1.

    Half as many clusters as is usual, so that each has 40 members or so also where samples are
    few. Small sets score below 1 even against their like.
    """
    if reason := _too_few(made, real, MAUVE_LEAST):
        return unknown("mauve", len(made), reason)

    def score(p: Array, q: Array) -> float:
        found = mauve.compute_mauve(
            p_features=p.astype(np.float32),
            q_features=q.astype(np.float32),
            num_buckets=max(2, len(p) // CLUSTER_SIDE),
            seed=seed % 2**31,
        )
        return float(found.mauve)

    with threadpool_limits(1):
        interval = half_samples(score, made, real, seed=seed, times=MAUVE_HALVES)
        return measured("mauve", score(made, real), interval, len(made))


def auroc(made: Array, real: Array, seed: int) -> Measure:
    """How well a logistic regression tells samples from real ones that it has not seen: the mean
    AUROC of the folds. .5: not at all.

    Equal vectors stay in one fold, so that a copy is not known from training. The interval draws
    anew what each fold was tested on, with the models as they are.
    """
    if reason := _too_few(made, real):
        return unknown("auroc", len(made), reason)
    with threadpool_limits(1):
        folds = _held_out(made, real, seed)
    rng = np.random.default_rng(seed)
    drawn = [np.mean([_redrawn(wins, rng) for wins in folds]) for _ in range(RESAMPLES)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    value = float(np.mean([wins.mean() for wins in folds]))
    return measured("auroc", value, (low, high), len(made))


def precision(made: Array, real: Array, seed: int) -> Measure:
    """Share of samples within reach of a real one: no farther from it than its fifth neighbour
    among the real ones (Kynkäänniemi et al., arXiv 1904.06991)."""
    return _by_neighbours("precision", _within_reach, made, real, seed)


def recall(made: Array, real: Array, seed: int) -> Measure:
    """Share of real samples within reach of one of the set (arXiv 1904.06991)."""
    return _by_neighbours("recall", lambda a, b: _within_reach(b, a), made, real, seed)


def coverage(made: Array, real: Array, seed: int) -> Measure:
    """Share of real samples with one of the set no farther away than their fifth real neighbour
    (Naeem et al., arXiv 2002.09797)."""
    return _by_neighbours("coverage", _covered, made, real, seed)


def _mean_cosine(name: str, made: Array, real: Array, seed: int, *, unit: bool) -> Measure:
    """With the mean of the real ones, made one long where `unit`. The interval is over samples."""
    if not len(made) or not len(real):
        return unknown(name, len(made), "A sample and a real one are needed.")
    center = real.mean(axis=0)
    each = made @ (center / np.linalg.norm(center) if unit else center)
    interval = bootstrap(lambda values: float(values.mean()), each, seed=seed)
    return measured(name, each.mean(), interval, len(made))


def _too_few(made: Array, real: Array, least: int = LEAST) -> str | None:
    if min(len(made), len(real)) >= least:
        return None
    return (
        f"{least} samples and twice as many real ones are needed: half of these are compared with "
        "the samples, the other half tells what is natural."
    )


def _held_out(made: Array, real: Array, seed: int) -> list[Array]:
    """For each fold: whether each held-out sample scores above each held-out real one (1, or .5
    where they are level)."""
    vectors = np.concatenate([made, real])
    is_made = np.arange(len(vectors)) < len(made)
    _, groups = np.unique(vectors, axis=0, return_inverse=True)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed % 2**32)
    return [
        _wins(_scores(vectors, is_made, train, test), is_made[test])
        for train, test in folds.split(vectors, is_made, groups)
    ]


def _scores(vectors: Array, is_made: Flags, train: Places, test: Places) -> Array:
    model = LogisticRegression(max_iter=1000).fit(vectors[train], is_made[train])
    scores: Array = model.decision_function(vectors[test])
    return scores


def _wins(scores: Array, is_made: Flags) -> Array:
    above: Array = np.sign(scores[is_made][:, None] - scores[~is_made][None, :])
    return (above + 1) / 2


def _redrawn(wins: Array, rng: np.random.Generator) -> float:
    rows, columns = (rng.integers(0, size, size) for size in wins.shape)
    return float(wins[rows][:, columns].mean())


def _by_neighbours(name: str, statistic: Statistic, made: Array, real: Array, seed: int) -> Measure:
    if reason := _too_few(made, real):
        return unknown(name, len(made), reason)
    interval = half_samples(statistic, made, real, seed=seed, times=KNN_HALVES)
    return measured(name, statistic(made, real), interval, len(made))


def _within_reach(these: Array, those: Array) -> float:
    """Share of `these` in the ball of one of `those`."""
    return float((_distances(these, those) <= _reaches(those)).any(axis=1).mean())


def _covered(made: Array, real: Array) -> float:
    return float((_distances(made, real) <= _reaches(real)).any(axis=0).mean())


def _reaches(vectors: Array) -> Array:
    """(N,): the squared distance of each to its fifth neighbour, or to the last of fewer."""
    away = np.sort(_distances(vectors, vectors), axis=1)  # the first is itself
    reaches: Array = away[:, min(NEIGHBOURS, len(vectors) - 1)]
    return reaches


def _distances(these: Array, those: Array) -> Array:
    """(N, M): squared Euclidean distances."""
    squares = np.sum(these**2, axis=1)[:, None] + np.sum(those**2, axis=1)[None, :]
    distances: Array = np.maximum(squares - 2 * these @ those.T, 0)
    return distances
