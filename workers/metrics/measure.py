"""One measured number with its 95 % interval, and how intervals are found by resampling."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factory.intervals import Interval, Z

Array = NDArray[np.floating]
RESAMPLES = 500


@dataclass(frozen=True)
class Measure:
    """What was measured on `n` samples: 95 % of the time the true value lies from `low` to
    `high`. Where nothing can be said, `value` is None and `note` says why."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    n: int
    note: str | None = None


def measured(
    name: str, value: float, interval: Interval, n: int, note: str | None = None
) -> Measure:
    """A measure that holds a value."""
    return Measure(name, float(value), float(interval[0]), float(interval[1]), n, note)


def unknown(name: str, n: int, why: str) -> Measure:
    """A measure that could not be taken, and why."""
    return Measure(name, None, None, None, n, why)


def bootstrap(statistic: Callable[..., float], *groups: Array, seed: int) -> Interval:
    """The percentile interval of a statistic of some groups of rows (Efron 1979): each group is
    drawn anew from its own rows. Not for statistics of pairs: it draws rows twice."""
    rng = np.random.default_rng(seed)
    values = [
        statistic(*(group[rng.integers(0, len(group), len(group))] for group in groups))
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def half_samples(
    statistic: Callable[..., float],
    *groups: NDArray[np.generic],
    seed: int,
    times: int,
    least: float = 0.0,
) -> Interval:
    """The interval of a value from `least` to 1, by its spread on random halves of each group.

    The delete-half jackknife (Shao & Wu 1989, Annals of Statistics 17): the spread between
    halves is the standard error of the whole, and no row is ever drawn twice.
    """
    rng = np.random.default_rng(seed)
    values = [
        statistic(*(group[rng.permutation(len(group))[: len(group) // 2]] for group in groups))
        for _ in range(times)
    ]
    whole, half = statistic(*groups), Z * float(np.std(values, ddof=1))
    return max(least, whole - half), min(1.0, whole + half)
