"""The plane that a map is drawn on."""

import numpy as np
import pytest

from workers.map import plane


def clouds() -> np.ndarray:
    """Three clouds in 20 dimensions, 40 points each, far from each other."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 20)) * 4
    return np.concatenate([centre + rng.normal(size=(40, 20)) * 0.1 for centre in centres])


def test_what_lies_together_stays_together() -> None:
    places = plane(clouds())
    groups = places.reshape(3, 40, 2)
    middles = groups.mean(axis=1)
    spread = np.abs(groups - middles[:, None]).max()
    apart = min(np.linalg.norm(middles[i] - middles[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert apart > 10 * spread
    assert np.percentile(np.abs(places), 99) == pytest.approx(1)


def test_the_same_vectors_give_the_same_picture_in_any_order() -> None:
    vectors = clouds()
    order = np.random.default_rng(1).permutation(len(vectors))
    assert np.allclose(plane(vectors)[order], plane(vectors[order]))


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_few_or_equal_vectors_lie_in_the_middle(rows: int) -> None:
    places = plane(np.ones((rows, 4)))
    assert places.shape == (rows, 2)
    assert np.allclose(places, 0)
