"""Whether levers cost variety: distinct-3 of texts made with them, beside the audit's."""

import random
from collections.abc import Sequence

from factory.texts import ngrams

MINIMUM = 40  # texts of the audit: with fewer nothing is said
DRAWS = 8  # of as many guided texts as the audit has: distinct-3 depends on how many there are
LIMIT = 0.15  # a larger fall halves the levers' weights


def variety_fall(guided: Sequence[str], audit: Sequence[str], seed: int = 0) -> float | None:
    """By which share distinct-3 of guided texts lies below the audit's; below 0: it lies above.

    Sets of one size are compared, the guided one being the mean of DRAWS draws. None while there
    are fewer than MINIMUM of either.
    """
    size = min(len(guided), len(audit))
    if size < MINIMUM:
        return None
    rng = random.Random(seed)
    drawn = [_distinct(rng.sample(list(guided), size)) for _ in range(DRAWS)]
    natural = [_distinct(rng.sample(list(audit), size)) for _ in range(DRAWS)]
    return 1 - sum(drawn) / sum(natural) if sum(natural) else None


def _distinct(texts: Sequence[str]) -> float:
    runs = [run for text in texts for run in ngrams(text, 3)]
    return len(set(runs)) / len(runs) if runs else 0.0
