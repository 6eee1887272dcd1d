"""Variety against values worked out by hand."""

import math
from itertools import combinations
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.metrics import variety

TEXTS = st.lists(st.text("abc ", min_size=1, max_size=24), min_size=2, max_size=8)
# a b c d, twice over but for the end: of 2 x 3 pairs, 2 x 2 triples and 2 x 1 fours
PAIR = ["a b c d", "a b c e"]


def unit(rows: list[list[float]]) -> np.ndarray:
    vectors = np.array(rows, dtype=float)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize(("n", "value"), [(1, 5 / 8), (2, 4 / 6), (3, 3 / 4), (4, 2 / 2)])
def test_distinct_counts_ngrams(n: int, value: float) -> None:
    found = variety.distinct(PAIR, n)
    assert (found.name, found.value, found.n) == (f"distinct_{n}", value, 2)


def test_normalized_ngrams_multiply_orders_two_to_four() -> None:
    assert variety.normalized_ngrams(PAIR).value == pytest.approx(4 / 6 * 3 / 4 * 1)


def test_the_distinct_interval_is_the_jackknifes() -> None:
    # ab three times, bc twice, bd: 3 different of 6; without the second text ab and bc only
    texts = ["a b c", "a b d", "a b c"]
    without = [3 / 4, 2 / 4, 3 / 4]
    mean = sum(without) / 3
    half = 1.95996 * math.sqrt(2 / 3 * sum((w - mean) ** 2 for w in without))
    found = variety.distinct(texts, 2)
    assert found.value == 3 / 6
    assert found.low == pytest.approx(3 / 6 - half, abs=1e-4)
    assert found.high == pytest.approx(3 / 6 + half, abs=1e-4)


def test_words_are_compared_in_lower_case_and_marks_count() -> None:
    assert variety.words("The cat, THE dog.") == ["the", "cat", ",", "the", "dog", "."]


def test_self_bleu_of_equal_texts_is_one_and_of_strangers_none() -> None:
    same = variety.self_bleu(["one two three four five"] * 3, seed=0)
    assert (same.value, same.low, same.high) == pytest.approx((1, 1, 1))
    assert variety.self_bleu(["a b c d", "e f g h"], seed=0).value == pytest.approx(0)


def test_self_bleu_by_hand() -> None:
    # Each has 1-grams 4/5, 2-grams 3/4, 3-grams 2/3, 4-grams 1/2 in the other; no brevity penalty.
    found = variety.self_bleu(["a b c d e", "a b c d f"], seed=0)
    assert found.value == pytest.approx((4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25)


def test_self_bleu_of_a_large_set_says_how_much_of_it_was_read() -> None:
    found = variety.self_bleu([f"w{i} w{i + 1} w{i + 2}" for i in range(150)], seed=0)
    assert (found.n, found.note) == (100, "100 of 150 samples")


def test_self_cosine_by_hand() -> None:
    # Cosines 0 (first, second), .6 (first, third) and .8 (second, third).
    found = variety.self_cosine(unit([[1, 0], [0, 1], [3, 4]]))
    assert found.value == pytest.approx((0 + 0.6 + 0.8) / 3)
    without = [0.8, 0.6, 0.0]
    mean = sum(without) / 3
    half = 1.95996 * math.sqrt(2 / 3 * sum((w - mean) ** 2 for w in without))
    assert found.low == pytest.approx(found.value - half, abs=1e-4)


def test_duplicates_and_length_by_hand() -> None:
    texts = ["A b.", "a b .", "c d e f", "a b."]
    assert variety.duplicates(texts).value == 2 / 4
    found = variety.length(texts, seed=0)
    assert found.value == (3 + 3 + 4 + 3) / 4
    assert found.low is not None
    assert found.high is not None
    assert 3 <= found.low <= found.value <= found.high <= 4


@pytest.mark.parametrize(
    "found",
    [
        variety.distinct(["a b", "c"], 3),
        variety.normalized_ngrams(["a b c d e"]),
        variety.self_bleu(["alone"], seed=0),
        variety.self_cosine(unit([[1, 0], [0, 1]])),
        variety.duplicates(["alone"]),
        variety.length([], seed=0),
    ],
)
def test_too_few_texts_are_told_not_measured(found: variety.Measure) -> None:
    assert (found.value, found.low, found.high) == (None, None, None)
    assert found.note


@given(TEXTS, st.randoms())
def test_the_order_of_texts_changes_nothing(texts: list[str], rng: Random) -> None:
    other = rng.sample(texts, len(texts))
    for measure in (variety.normalized_ngrams, variety.duplicates):
        one, two = measure(texts), measure(other)
        assert (one.value, one.n, one.note) == (two.value, two.n, two.note)
        assert one.low == pytest.approx(two.low)
        assert one.high == pytest.approx(two.high)


@given(TEXTS, st.integers(1, 4))
def test_distinct_is_a_share_within_its_interval(texts: list[str], n: int) -> None:
    found = variety.distinct(texts, n)
    if found.value is None or found.low is None or found.high is None:
        assert sum(bool(variety.ngrams(text, n)) for text in texts) < 2
        return
    assert 0 <= found.low <= found.value <= found.high <= 1


@given(TEXTS, st.integers(1, 4))
def test_a_set_said_twice_is_half_as_distinct(texts: list[str], n: int) -> None:
    once, twice = variety.distinct(texts, n).value, variety.distinct(texts * 2, n).value
    if once is not None:
        assert twice == pytest.approx(once / 2)


@given(st.lists(st.integers(0, 7), min_size=3, max_size=12))
def test_self_cosine_is_the_mean_of_all_pairs(places: list[int]) -> None:
    turns = [[math.cos(place), math.sin(place)] for place in places]
    pairs = [a[0] * b[0] + a[1] * b[1] for a, b in combinations(turns, 2)]
    assert variety.self_cosine(unit(turns)).value == pytest.approx(sum(pairs) / len(pairs))
