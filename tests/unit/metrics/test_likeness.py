"""Likeness to real samples against published values, hand-made sets and sets of one source."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.metrics import likeness
from workers.metrics.measure import Measure

Measuring = Callable[[np.ndarray, np.ndarray, int], Measure]
BY_PEERS: list[Measuring] = [
    likeness.mauve_score,
    likeness.auroc,
    likeness.precision,
    likeness.recall,
    likeness.coverage,
]


def draw(size: int, seed: int, shift: float = 0.0, dimensions: int = 16) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(size, dimensions))
    rows[:, 0] += shift
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def holds(found: Measure, expected: float) -> bool:
    assert found.low is not None
    assert found.high is not None
    return found.low <= expected <= found.high


def test_cosines_by_hand() -> None:
    made = np.array([[1.0, 0.0], [0.6, 0.8]])
    real = np.array([[1.0, 0.0], [0.0, 1.0]])
    # to the mean (.5, .5): .5 and .7; it is √½ long
    pairwise = likeness.cosine_pairwise(made, real, seed=0)
    assert pairwise.value == pytest.approx(0.6)
    centroid = likeness.cosine_centroid(made, real, seed=0)
    assert centroid.value == pytest.approx(0.6 * np.sqrt(2))
    assert holds(centroid, centroid.value or 0)


def test_neighbours_by_hand() -> None:
    """Twenty points on a line, one apart, so that each reaches 5 or less to either side."""
    real = np.array([[float(i), 0.0] for i in range(20)])
    near, far = [[i + 0.5, 0.0] for i in range(10)], [[100.0 + i, 0.0] for i in range(10)]
    made = np.array(near + far)
    # Half of the samples lie among the real ones.
    assert likeness.precision(made, real, seed=0).value == 0.5
    # A sample reaches its fifth neighbour: up to 5 from the inner ones (so 0 … 9.5 + 5); the far
    # ones reach 5 too, but no real one.
    assert likeness.recall(made, real, seed=0).value == 15 / 20
    # Real ones reach 3 (inner) to 5 (ends); those up to 9.5 + 3 have a sample within reach.
    assert likeness.coverage(made, real, seed=0).value == 13 / 20


def test_coverage_of_equal_distributions_is_as_published() -> None:
    """Naeem et al., arXiv 2002.09797, eq. 9: 1 − Π_{i=1..k} (N − i) / (M + N − i)."""
    size, k = 200, likeness.NEIGHBOURS
    expected = 1 - np.prod([(size - i) / (2 * size - i) for i in range(1, k + 1)])
    values = [
        likeness.coverage(draw(size, 2 * seed), draw(size, 2 * seed + 1), seed=0).value or 0
        for seed in range(10)
    ]
    assert np.mean(values) == pytest.approx(expected, abs=0.015)


def test_mauve_of_equal_sets_is_one_and_of_strangers_as_published() -> None:
    same = draw(80, 0)
    assert likeness.mauve_score(same, same, seed=0).value == pytest.approx(1)
    apart = likeness.mauve_score(draw(80, 1, shift=50), draw(80, 2, shift=-50), seed=0)
    # What shares nothing has the divergence curve (λ^c, (1 − λ)^c): the area below it is
    # c · B(c, c + 1), with the published c = 5.
    assert apart.value == pytest.approx(
        5 * math.factorial(4) * math.factorial(5) / math.factorial(10), abs=5e-4
    )


def test_a_classifier_cannot_tell_one_source_and_tells_two() -> None:
    same = likeness.auroc(draw(200, 1), draw(200, 2), seed=0)
    assert holds(same, 0.5)
    apart = likeness.auroc(draw(200, 1, shift=50), draw(200, 2, shift=-50), seed=0)
    assert (apart.value, apart.low, apart.high) == (1, 1, 1)


def test_a_classifier_is_not_misled_by_copies() -> None:
    real = draw(100, 3)
    assert likeness.auroc(real.copy(), real, seed=0).value == pytest.approx(0.5, abs=0.02)


def test_the_auroc_of_two_normals_is_known() -> None:
    """Two unit normals d apart along one axis: AUROC = Φ(d / √2), so .760 for d = 1."""
    rng = np.random.default_rng(0)
    made, real = rng.normal((1, 0), size=(600, 2)), rng.normal((0, 0), size=(600, 2))
    assert likeness.auroc(made, real, seed=0).value == pytest.approx(0.760, abs=0.03)


@pytest.mark.parametrize("measure", BY_PEERS)
def test_too_few_samples_are_told_not_measured(measure: Measuring) -> None:
    found = measure(draw(300, 0), draw(19, 1), 0)
    assert found.value is None
    assert "needed" in (found.note or "")


@pytest.mark.parametrize("measure", BY_PEERS)
def test_the_same_seed_gives_the_same_measure(measure: Measuring) -> None:
    made, real = draw(80, 0, shift=1), draw(80, 1)
    assert measure(made, real, 5) == measure(made, real, 5)


@given(st.integers(0, 2**32), st.integers(20, 40), st.integers(20, 40))
@settings(max_examples=20, deadline=None)
def test_precision_one_way_is_recall_the_other(seed: int, many: int, few: int) -> None:
    made, real = draw(many, seed), draw(few, seed + 1)
    one, other = likeness.precision(made, real, 0).value, likeness.recall(real, made, 0).value
    assert one == other
    assert likeness.coverage(made, real, 0).value == likeness.coverage(made[::-1], real, 0).value


@given(st.integers(0, 2**32), st.floats(-3, 3))
@settings(max_examples=10, deadline=None)
def test_values_are_shares_within_their_intervals(seed: int, shift: float) -> None:
    made, real = draw(80, seed, shift), draw(80, seed + 1)
    for measure in BY_PEERS:
        found = measure(made, real, 0)
        assert found.value is not None
        assert 0 <= found.value <= 1
        assert holds(found, found.value)
