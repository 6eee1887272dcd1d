"""Downstream utility, on points in a plane where the right answer is plain to see."""

import numpy as np
import pytest

from workers.metrics import Row, evaluate, reference
from workers.metrics.utility import utility


def cloud(angle: float, count: int, seed: int, spread: float = 0.15) -> np.ndarray:
    """Unit vectors around an angle."""
    angles = angle + np.random.default_rng(seed).normal(0, spread, count)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def two(seed: int, count: int = 20) -> tuple[np.ndarray, list[str | None]]:
    labels: list[str | None] = ["good"] * count + ["bad"] * count
    return np.concatenate([cloud(0, count, seed), cloud(2, count, seed + 1)]), labels


def test_samples_that_tell_the_labels_apart_are_worth_all() -> None:
    made, labels = two(1)
    found = utility(made, labels, *two(5), seed=1)
    assert (found.value, found.low, found.high, found.n) == (1, 1, 1, 40)


def test_swapped_labels_are_worth_nothing_and_shuffled_ones_half() -> None:
    made, labels = two(1, 200)
    assert utility(made, labels[::-1], *two(5), seed=1).value == 0
    mixed = [labels[i] for i in np.random.default_rng(0).permutation(400)]
    real, true = np.concatenate([cloud(0, 100, 5, 3), cloud(2, 100, 6, 3)]), two(5, 100)[1]
    chance = utility(made, mixed, real, true, seed=1)
    assert chance.value == pytest.approx(0.5, abs=0.15)
    assert chance.low is not None
    assert chance.low < 0.5 + 0.15


def test_each_label_counts_alike_however_rare() -> None:
    """All 90 of one label are found, none of the 10 of the other: half, not nine tenths."""
    made, labels = two(1)
    real = np.concatenate([cloud(0, 90, 5), cloud(0, 10, 6)])
    found = utility(made, labels, real, ["good"] * 90 + ["bad"] * 10, seed=1)
    assert found.value == 0.5


def test_too_few_labels_say_nothing() -> None:
    made, labels = two(1)
    assert "`label`" in (utility(made, [None] * 40, *two(5), seed=1).note or "")
    assert utility(made, ["good"] * 40, *two(5), seed=1).value is None
    assert "real samples" in (utility(made, labels, made, [None] * 40, seed=1).note or "")


def test_it_stands_beside_training_on_as_many_real_ones() -> None:
    def rows(seed: int, count: int) -> list[Row]:
        vectors, labels = two(seed, count)
        pairs = zip(vectors, labels, strict=True)
        return [Row(f"t{seed} {i}", list(v), label=name) for i, (v, name) in enumerate(pairs)]

    made, real = rows(1, 30), rows(7, 50)
    (found,) = evaluate(["utility"], made, real, seed=3)
    (natural,) = reference(["utility"], len(made), real, seed=3)
    assert (found.value, natural.value) == (1, 1)
    assert found.n == natural.n == 50  # of 60, as many as half of the real ones
    (none,) = evaluate(["utility"], [Row("a", [1.0, 0.0])] * 30, real, seed=3)
    assert none.value is None
