"""What is measured on texts of one language, and how seeds are pooled, with 95 % intervals."""

import math
import statistics
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from factory.intervals import Z, wilson
from factory.local.demo.grammar import words
from tests.benchmarks.testbed import Grammar
from workers.levers.gates import Runs
from workers.metrics.copies import SHARED
from workers.metrics.likeness import auroc
from workers.metrics.variety import distinct

COLUMNS = 512
FRESH_SEED = 77  # of real texts that no model has seen


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds; 95 % of the time the true value lies from `low` to `high`."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        """Rounded, for a file."""
        return {key: round(number, 4) for key, number in asdict(self).items()}

    def beats(self, other: "Estimate") -> bool:
        """Whether this is higher than another by more than both intervals together explain."""
        gap = self.value - other.value
        return gap > math.hypot(self.value - self.low, other.high - other.value)


def share(hits: Sequence[Sequence[bool]]) -> Estimate:
    """The share of marks that hold, one row of marks a seed.

    Wilson's interval, with fewer effective samples where seeds differ by more than chance.
    """
    rows = [row for row in hits if len(row)]
    size, total = sum(map(len, rows)), sum(map(sum, rows))
    if not size:
        return Estimate(math.nan, 0.0, 1.0)
    value = total / size
    spread = value * (1 - value) * sum(1 / len(row) for row in rows) / len(rows)
    between = statistics.variance([sum(row) / len(row) for row in rows]) if len(rows) > 1 else 0.0
    effective = size / max(1.0, between / spread if spread else 1.0)
    low, high = wilson_of(value, effective)
    return Estimate(value, low, high)


def wilson_of(value: float, size: float) -> tuple[float, float]:
    """Wilson's interval of a share, of a number of samples that need not be whole."""
    return wilson(value * size, size)  # type: ignore[arg-type]


def mean(values: Sequence[float], errors: Sequence[float]) -> Estimate:
    """The mean of one value a seed, each with its own standard error.

    The interval takes the larger of two spreads: between seeds, and what the errors explain.
    """
    count = len(values)
    within = math.sqrt(sum(error**2 for error in errors)) / count
    between = statistics.stdev(values) / math.sqrt(count) if count > 1 else 0.0
    value, half = statistics.fmean(values), Z * max(within, between)
    return Estimate(value, value - half, value + half)


def distinct3(sets: Sequence[Sequence[str]]) -> Estimate:
    """Distinct-3 within each seed's texts. Compare sets of one size."""
    found = [distinct(texts, 3) for texts in sets]
    known = [m for m in found if m.value is not None and m.low is not None and m.high is not None]
    if not known:
        return Estimate(math.nan, 0.0, 1.0)
    return mean([m.value for m in known], [(m.high - m.low) / 2 / Z for m in known])


def told_from_real(task: Grammar, sets: Sequence[Sequence[str]]) -> Estimate:
    """AUROC of a classifier of words and word pairs, samples against real texts never seen."""
    fresh = vectors(task.real_samples(min(300, len(sets[0])), seed=FRESH_SEED))
    found = [auroc(vectors(texts), fresh, seed) for seed, texts in enumerate(sets)]
    known = [m for m in found if m.value is not None and m.low is not None and m.high is not None]
    return mean([m.value for m in known], [(m.high - m.low) / 2 / Z for m in known])


def vectors(texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(N, COLUMNS) unit vectors of hashed words and word pairs."""
    found = np.zeros((len(texts), COLUMNS))
    for row, text in enumerate(texts):
        tokens = words(text)
        for gram in (*tokens, *pairwise(tokens)):
            found[row, zlib.crc32(repr(gram).encode()) % COLUMNS] += 1
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    return found / np.where(norms == 0, 1, norms)


@dataclass(frozen=True)
class Marks:
    """What holds of each of some texts, in order."""

    coherent: list[bool]
    fresh: list[bool]
    copied: list[bool]
    near: list[bool]
    favourite: list[bool]

    @property
    def useful(self) -> list[bool]:
        """Coherent, the first with its text, no copy of a real sample."""
        each = zip(self.coherent, self.fresh, self.copied, strict=True)
        return [coherent and fresh and not copied for coherent, fresh, copied in each]


def marks(task: Grammar, texts: Sequence[str], real: Sequence[str]) -> Marks:
    """Judge texts."""
    known, seen, copies = set(real), Counter[str](), Copies(real)
    fresh = []
    for text in texts:
        fresh.append(not seen[text])
        seen[text] += 1
    return Marks(
        coherent=[task.parse(text) is not None for text in texts],
        fresh=fresh,
        copied=[text in known for text in texts],
        near=[copies.near(text) for text in texts],
        favourite=[task.theme(text) == task.favourite for text in texts],
    )


class Copies:
    """Knows which texts nearly repeat a real one: the factory's gate, without its memory."""

    def __init__(self, real: Sequence[str]) -> None:
        self._runs = Runs()
        for text in real:
            self._runs.add("real", text)

    def near(self, text: str) -> bool:
        """Whether a text is a near-copy."""
        return self._runs.nearest(text)[0] >= SHARED


def summary(
    task: Grammar, sets: Sequence[Sequence[str]], real: Sequence[str]
) -> dict[str, Estimate]:
    """The measures of one arm, whose texts come one list a seed."""
    found = [marks(task, texts, real) for texts in sets]
    return {
        "coherence": share([m.coherent for m in found]),
        "distinct3": distinct3(sets),
        "yield": share([m.useful for m in found]),
        "copies": share([m.copied for m in found]),
        "near_copies": share([m.near for m in found]),
        "theme_share": share([m.favourite for m in found]),
    }
