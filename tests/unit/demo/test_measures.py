"""The demo's measures against values worked out by hand."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.intervals import wilson
from factory.local.demo import grammar
from factory.local.demo.corpus import real_samples
from factory.local.demo.measures import measure
from factory.texts import distinct, distinct_interval


def test_shares_are_counted_by_hand() -> None:
    rng = Random(0)
    ocean, soil, space = (grammar.sample(rng, theme) for theme in ("ocean", "soil", "space"))
    texts = [ocean, soil, soil, space, "coral reefs and nothing else"]
    found = measure(texts, real=[space], rejected_theme="ocean")
    assert found["size"] == 5
    assert found["theme_share"] == 2 / 5
    assert found["coherence"] == 4 / 5
    assert found["copies"] == 1 / 5
    assert found["yield"] == 1 / 5  # the first soil: the second repeats it, space copies


def test_the_first_of_equal_texts_is_of_use_and_only_it() -> None:
    texts = [grammar.sample(Random(0), "soil")] * 3
    assert measure(texts, real=[], rejected_theme="ocean")["yield"] == round(1 / 3, 4)


def test_distinct_counts_trigrams() -> None:
    assert distinct(["a b c d", "a b c e"]) == 3 / 4  # abc twice, bcd, bce
    assert distinct(["a b", "c"]) is None
    assert distinct(["a b a b"], n=2) == 2 / 3


@pytest.mark.parametrize(
    ("hits", "size", "low", "high"),
    # By hand from (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n), z = 1.95996.
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0)],
)
def test_wilson_intervals(hits: int, size: int, low: float, high: float) -> None:
    assert wilson(hits, size) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


@given(st.integers(1, 500), st.data())
def test_a_wilson_interval_holds_its_share(size: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, size))
    low, high = wilson(hits, size)
    assert 0 <= low <= hits / size + 1e-12
    assert hits / size - 1e-12 <= high <= 1


@given(st.lists(st.text("abc ", max_size=20), min_size=2, max_size=8))
def test_the_jackknife_leaves_out_one_text_at_a_time(texts: list[str]) -> None:
    interval = distinct_interval(texts)
    whole = distinct(texts)
    without = [distinct(texts[:i] + texts[i + 1 :]) for i in range(len(texts))]
    if whole is None or any(value is None for value in without):
        assert interval is None
        return
    values = [value for value in without if value is not None]
    mean = sum(values) / len(values)
    error = math.sqrt(sum((v - mean) ** 2 for v in values) * (len(values) - 1) / len(values))
    expected = (max(0.0, whole - 1.96 * error), min(1.0, whole + 1.96 * error))
    assert interval == pytest.approx(expected, abs=1e-4)


def test_the_distinct_interval_narrows_with_more_texts() -> None:
    few, many = (measure(real_samples(n, 3), [], "ocean")["distinct3_ci"] for n in (30, 300))
    assert many[1] - many[0] < few[1] - few[0]


def test_without_texts_nothing_is_claimed() -> None:
    found = measure([], real=[], rejected_theme="ocean")
    assert found.pop("size") == 0
    assert set(found.values()) == {None}
