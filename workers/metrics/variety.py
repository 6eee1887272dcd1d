"""How varied a set of texts is, seen alone. Words are compared in lower case.

All of these depend on how many texts there are (the more, the more they repeat each other), so
compare sets of one size.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from sacrebleu.metrics.bleu import BLEU

from factory.intervals import jackknife, wilson
from factory.texts import ngrams, words
from workers.metrics.measure import Array, Measure, bootstrap, measured, unknown

BLEU_TEXTS = 100  # of a larger set as many are compared: the cost grows with their square
ORDERS = (2, 3, 4)  # of the n-grams that `normalized_ngrams` takes together


def distinct(texts: Sequence[str], n: int) -> Measure:
    """Different word n-grams per word n-gram (Li et al., arXiv 1510.03055)."""
    return _share_of_ngrams(f"distinct_{n}", texts, (n,))


def normalized_ngrams(texts: Sequence[str]) -> Measure:
    """The product of distinct-2, -3 and -4 (Su et al., arXiv 2202.06417, "diversity")."""
    return _share_of_ngrams("normalized_ngrams", texts, ORDERS)


def self_bleu(texts: Sequence[str], seed: int) -> Measure:
    """How well each text is foretold by the others: mean BLEU-4, 0 to 1 (Zhu et al., arXiv
    1802.01886). Lower is more varied. The interval is over texts, the others as they are."""
    if len(texts) < 2:
        return unknown("self_bleu", len(texts), "Two samples or more are needed.")
    chosen = np.random.default_rng(seed).permutation(len(texts))[:BLEU_TEXTS]
    some = [texts[i] for i in chosen]
    bleu = BLEU(effective_order=True)
    scores = [
        bleu.sentence_score(text, some[:i] + some[i + 1 :]).score / 100
        for i, text in enumerate(some)
    ]
    note = f"{len(some)} of {len(texts)} samples" if len(some) < len(texts) else None
    found = np.array(scores)
    return measured("self_bleu", found.mean(), bootstrap(_mean, found, seed=seed), len(some), note)


def self_cosine(vectors: Array) -> Measure:
    """Mean cosine of two different samples; `vectors` (N, D) of unit length."""
    n = len(vectors)
    if n < 3:
        return unknown("self_cosine", n, "Three samples or more are needed.")
    total = vectors.sum(axis=0)
    rest = total - vectors  # (N, D): the sum without each
    without = (np.sum(rest**2, axis=1) - (n - 1)) / ((n - 1) * (n - 2))
    value = (float(total @ total) - n) / (n * (n - 1))
    return measured("self_cosine", value, jackknife(value, without.tolist(), -1.0), n)


def duplicates(texts: Sequence[str]) -> Measure:
    """Share of texts whose words are those of an earlier one."""
    n = len(texts)
    if n < 2:
        return unknown("duplicates", n, "Two samples or more are needed.")
    extra = n - len({" ".join(words(text)) for text in texts})
    return measured("duplicates", extra / n, wilson(extra, n), n)


def length(texts: Sequence[str], seed: int) -> Measure:
    """Mean number of words and marks."""
    if not texts:
        return unknown("length", 0, "There is no sample.")
    counts = np.array([len(words(text)) for text in texts], dtype=np.float64)
    return measured("length", counts.mean(), bootstrap(_mean, counts, seed=seed), len(texts))


def _share_of_ngrams(name: str, texts: Sequence[str], orders: Sequence[int]) -> Measure:
    found = [_distinct_without_each(texts, n) for n in orders]
    shares = [each for each in found if each is not None]
    if len(shares) < len(orders):
        why = f"Two samples or more with {max(orders)} words are needed."
        return unknown(name, len(texts), why)
    value = math.prod(whole for whole, _ in shares)
    without = [math.prod(values) for values in zip(*(each for _, each in shares), strict=True)]
    return measured(name, value, jackknife(value, without), len(texts))


def _distinct_without_each(texts: Sequence[str], n: int) -> tuple[float, list[float]] | None:
    """Distinct-n of all texts, and without each text in turn; None where fewer than two texts
    have an n-gram."""
    counts = [Counter(ngrams(text, n)) for text in texts]
    everywhere: Counter[tuple[str, ...]] = Counter()
    for count in counts:
        everywhere.update(count)
    size = everywhere.total()
    if sum(bool(count) for count in counts) < 2:
        return None
    without = [
        (len(everywhere) - sum(everywhere[gram] == times for gram, times in count.items()))
        / (size - count.total())
        for count in counts
    ]
    return len(everywhere) / size, without


def _mean(values: Array) -> float:
    return float(values.mean())
