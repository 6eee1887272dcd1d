"""Texts that repeat real ones, and how many are of use."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from factory.intervals import wilson
from factory.texts import copied_meaning, copied_runs, runs, words
from workers.metrics.measure import Array, Measure, measured, unknown

SHARED = 0.8  # share of a text's runs that one real sample has too
NEAR = 0.95  # cosine to the nearest real sample
UNUSABLE = ("filtered", "rejected", "fixed")
REFUSED = ("rejected", "fixed")
DECIDED = ("accepted", *REFUSED)


def verbatim(texts: Sequence[str], real: Sequence[str], *, others: bool = False) -> Measure:
    """Share of texts whose words are all those of a real sample, in their order.

    `others`, here and below: the texts are the real samples, each compared with all the others.
    """
    times = Counter(_key(text) for text in real)
    return _share("verbatim", [times[_key(text)] > others for text in texts], real)


def near_copies_ngram(
    texts: Sequence[str], real: Sequence[str], *, others: bool = False
) -> Measure:
    """Share of texts of which one real sample has 80 % of the runs of three words, or more."""
    having: dict[tuple[str, ...], set[int]] = defaultdict(set)
    for place, text in enumerate(real):
        for run in runs(text):
            having[run].add(place)
    marks = [
        _is_near(runs(text), having, place if others else None) for place, text in enumerate(texts)
    ]
    return _share("near_copies_ngram", marks, real)


def near_copies_embedding(vectors: Array, real: Array, *, others: bool = False) -> Measure:
    """Share of texts with a real sample at a cosine of .95 or more; unit vectors (N, D)."""
    name = "near_copies_embedding"
    if not len(vectors) or not len(real):
        return _share(name, [], real)
    cosines = vectors @ real.T
    if others:
        np.fill_diagonal(cosines, -1)
    return _share(name, (cosines.max(axis=1) >= NEAR).tolist(), real)


def near_copy(text: str, real: str, cosine: float) -> str | None:
    """Why a text is a near-copy of this real sample, by its words or its meaning; None: it is
    not."""
    mine = runs(text)
    share = len(mine & runs(real)) / len(mine)
    if share >= SHARED:
        return copied_runs("a real sample", share)
    return copied_meaning("a real sample", cosine) if cosine >= NEAR else None


def usable(texts: Sequence[str], states: Sequence[str], real: Sequence[str]) -> Measure:
    """Yield: share of texts that are unique (the first with these words), valid (not filtered
    out), no copy of a real sample, and not refused by a reviewer."""
    seen, known, marks = set[str](), {_key(text) for text in real}, []
    for text, state in zip(texts, states, strict=True):
        key = _key(text)
        marks.append(state not in UNUSABLE and key not in known and key not in seen)
        seen.add(key)
    note = None if real else "There are no real samples: copies are not known."
    return _share("yield", marks, ("-",), note)


def acceptance(name: str, states: Sequence[str]) -> Measure:
    """Share accepted among those with a verdict; a sample that was rewritten is not accepted."""
    decided = [state == "accepted" for state in states if state in DECIDED]
    if not decided:
        return unknown(name, 0, "No sample has a verdict yet.")
    return _share(name, decided, ("-",))


def _share(
    name: str, marks: Sequence[bool], real: Sequence[object] | Array, note: str | None = None
) -> Measure:
    if len(real) == 0:
        return unknown(name, len(marks), "The dataset has no real samples.")
    if not marks:
        return unknown(name, 0, "There is no sample.")
    hits, size = sum(marks), len(marks)
    return measured(name, hits / size, wilson(hits, size), size, note)


def _key(text: str) -> str:
    return " ".join(words(text))


def _is_near(
    mine: set[tuple[str, ...]], having: dict[tuple[str, ...], set[int]], but: int | None
) -> bool:
    """Whether one real sample, `but` this one, has enough of the runs."""
    shared: Counter[int] = Counter()
    for run in mine:
        shared.update(having.get(run, ()))
    return any(times >= SHARED * len(mine) for place, times in shared.items() if place != but)
