"""Whether a learned lever knows anything: cross-validated, beside shuffled verdicts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

MINIMUM = 10  # texts of each verdict: with fewer nothing is fitted
FOLDS = 3
SHUFFLES = 3
Z_ONE_SIDED = 1.645  # 95 %

Verdicts = NDArray[np.bool_]


@dataclass(frozen=True)
class Sanity:
    """AUROC of held-out texts: of the lever, the mean on shuffled verdicts, and the least that
    is taken for more than chance."""

    auroc: float
    shuffled: float
    needed: float

    @property
    def refusal(self) -> str | None:
        """Why the lever should not be used, or None."""
        if self.auroc > self.needed:
            return None
        return (
            f"it foretells verdicts no better than shuffled ones: AUROC {self.auroc:.2f} on "
            f"held-out texts, {self.shuffled:.2f} shuffled, {self.needed:.2f} needed"
        )


def too_few(accepted: Sequence[bool]) -> str | None:
    """Why nothing can be fitted on these verdicts, or None."""
    good = sum(accepted)
    bad = len(accepted) - good
    if min(good, bad) >= MINIMUM:
        return None
    return (
        f"{MINIMUM} accepted and {MINIMUM} rejected samples are needed; "
        f"the window holds {good} and {bad}"
    )


def shuffles(accepted: Verdicts, seed: int) -> list[Verdicts]:
    """The verdicts dealt out anew, SHUFFLES times."""
    random = np.random.default_rng(seed)
    return [random.permutation(accepted) for _ in range(SHUFFLES)]


def folds(accepted: Verdicts, seed: int) -> list[int]:
    """Which fold each text is held out in; each fold has its share of both verdicts."""
    split = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    part = np.zeros(len(accepted), dtype=int)
    for number, (_, held_out) in enumerate(split.split(accepted, accepted)):
        part[held_out] = number
    return [int(number) for number in part]


def by_chance(accepted: Verdicts, scores: Sequence[float], seed: int) -> Sanity:
    """How well held-out texts' scores foretell their verdicts, beside the same scores with the
    verdicts dealt out anew: for what is too costly to be fitted on shuffled verdicts."""
    verdicts = [accepted, *shuffles(accepted, seed)]
    return compare(verdicts, [scores] * len(verdicts))


def compare(verdicts: Sequence[Verdicts], scores: Sequence[Sequence[float]]) -> Sanity:
    """The first verdicts are the true ones; scores are of held-out texts.

    An AUROC of chance has variance (n₊ + n₋ + 1) / (12 n₊ n₋) (Mann and Whitney).
    """
    found = [float(roc_auc_score(v, s)) for v, s in zip(verdicts, scores, strict=True)]
    good = int(verdicts[0].sum())
    bad = len(verdicts[0]) - good
    deviation = ((good + bad + 1) / (12 * good * bad)) ** 0.5
    shuffled = float(np.mean(found[1:]))
    return Sanity(found[0], shuffled, max(shuffled, 0.5) + Z_ONE_SIDED * deviation)
