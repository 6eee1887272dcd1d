"""What a sweep measures of each setting it tries, on texts that all settings made alike.

coherence   share of samples that the expert, unguided, finds as plausible as real ones: whose mean
            log-probability a token is at least the floor, which 95 % of the real ones reach
diversity   distinct-3
harmonic    harmonic mean of both
yield       share that is unique, as plausible as real ones, and no copy of a real one

Compare settings on equal numbers of samples only: distinct-3 falls as there are more.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from factory.intervals import wilson
from factory.search import harmonic
from factory.texts import ngrams, words
from workers.metrics import copies, variety
from workers.metrics.measure import Measure, half_samples, measured, unknown

Objective = Literal["harmonic", "yield"]
Places = NDArray[np.intp]
HALVES = 60


@dataclass(frozen=True)
class Tried:
    """A sample of a setting. `key`: (round, ordinal), the same for equal seeds. `log_prob`: its
    mean log-probability a token under the unguided expert; None when it has no token."""

    key: tuple[int, int]
    text: str
    state: str
    log_prob: float | None


def floor_of(rows: Sequence[Tried], share: float = 5) -> float | None:
    """The log-probability that 95 % of these samples reach: for want of real ones."""
    known = [row.log_prob for row in rows if row.log_prob is not None]
    return float(np.percentile(known, share)) if known else None


def measures(
    rows: Sequence[Tried], real: Sequence[str], floor: float | None, seed: int
) -> list[Measure]:
    """Every measure of one setting."""
    if not rows:
        return [unknown(name, 0, "No sample was made.") for name in ("harmonic", "yield")]
    marked = mark(rows, floor)
    coherent = sum(row.state != "filtered" for row in marked)
    texts, states = [row.text for row in marked], [row.state for row in marked]
    whole = Scorer(marked, real)
    every = np.arange(len(marked))
    spread = half_samples(whole.harmonic, every, seed=seed, times=HALVES)
    return [
        measured("harmonic", whole.harmonic(every), spread, len(rows)),
        measured("coherence", coherent / len(rows), wilson(coherent, len(rows)), len(rows)),
        replace(variety.distinct(texts, 3), name="diversity"),
        copies.usable(texts, states, real),
        copies.verbatim(texts, real),
        copies.near_copies_ngram(texts, real),
    ]


def mark(rows: Sequence[Tried], floor: float | None) -> list[Tried]:
    """The same, with those that are not plausible marked as filtered out."""
    least = float("-inf") if floor is None else floor
    return [
        row
        if row.log_prob is not None and row.log_prob >= least
        else replace(row, state="filtered")
        for row in rows
    ]


def gain(
    rows: Sequence[Tried],
    plain: Sequence[Tried],
    real: Sequence[str],
    floor: float | None,
    objective: Objective,
    seed: int,
) -> Measure:
    """How much higher the objective is than that of the unguided samples of the same seeds."""
    theirs = {row.key: row for row in mark(plain, floor)}
    mine = [row for row in mark(rows, floor) if row.key in theirs]
    if len(mine) < 2:
        return unknown("gain", len(mine), "No unguided samples of the same seeds.")
    with_, without = Scorer(mine, real), Scorer([theirs[row.key] for row in mine], real)
    every = np.arange(len(mine))

    def more(places: Places) -> float:
        return with_.by(objective)(places) - without.by(objective)(places)

    interval = half_samples(more, every, seed=seed, times=HALVES, least=-1.0)
    return measured("gain", more(every), interval, len(mine))


class Scorer:
    """The objectives on any part of some samples, named by their places."""

    def __init__(self, rows: Sequence[Tried], real: Sequence[str]) -> None:
        known = {_key(text) for text in real}
        self._coherent = np.array([row.state != "filtered" for row in rows])
        self._keys = [_key(row.text) for row in rows]
        usable = [row.state not in copies.UNUSABLE for row in rows]
        pairs = zip(usable, self._keys, strict=True)
        self._usable = [good and key not in known for good, key in pairs]
        self._ngrams = [ngrams(row.text, 3) for row in rows]

    def by(self, objective: Objective) -> Callable[[Places], float]:
        """The function of an objective."""
        return self.harmonic if objective == "harmonic" else self.useful

    def harmonic(self, places: Places) -> float:
        """Harmonic mean of coherence and distinct-3."""
        grams = [gram for i in places for gram in self._ngrams[i]]
        distinct = len(set(grams)) / len(grams) if grams else 0.0
        return harmonic(float(self._coherent[places].mean()), distinct)

    def useful(self, places: Places) -> float:
        """Yield."""
        return len({self._keys[i] for i in places if self._usable[i]}) / len(places)


def _key(text: str) -> str:
    return " ".join(words(text))
