"""What is learned from verdicts: the filter, its sanity check, and the watch over variety."""

import numpy as np

from workers.levers.filter import fit_filter
from workers.levers.sanity import MINIMUM, too_few
from workers.levers.variety import LIMIT, variety_fall
from workers.levers.variety import MINIMUM as TEXTS


def clouds(size: int, apart: float, seed: int = 0) -> tuple[np.ndarray, list[bool]]:
    """Unit vectors in two clouds, and which are accepted."""
    random = np.random.default_rng(seed)
    accepted = [i % 2 == 0 for i in range(size)]
    vectors = random.normal(size=(size, 16)) + apart * np.outer(accepted, np.eye(16)[0])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), accepted


def test_a_filter_keeps_texts_like_the_best_of_the_evidence() -> None:
    fitted = fit_filter(*clouds(200, apart=3.0))
    assert fitted.filter is not None
    fresh, accepted = clouds(400, apart=3.0, seed=1)
    kept = fitted.filter.scores(fresh) >= fitted.filter.threshold(0.5)
    assert 0.4 < kept.mean() < 0.6
    assert np.array(accepted)[kept].mean() > 0.85
    assert fitted.filter.threshold(0.2) > fitted.filter.threshold(0.8)


def test_a_filter_that_knows_nothing_is_refused() -> None:
    refused = 0
    for seed in range(20):
        vectors, accepted = clouds(80, apart=0.0, seed=seed)
        fitted = fit_filter(vectors, accepted, seed=seed)
        if fitted.filter is None:
            refused += 1
            assert fitted.refused is not None
            assert "no better than shuffled ones" in fitted.refused
    assert refused >= 17


def test_too_few_verdicts_of_either_kind() -> None:
    vectors, _ = clouds(60, apart=3.0)
    accepted = [i >= MINIMUM - 1 for i in range(60)]
    fitted = fit_filter(vectors, accepted)
    assert fitted.filter is None
    assert fitted.refused == (
        "10 accepted and 10 rejected samples are needed; the window holds 51 and 9"
    )
    assert too_few([i >= MINIMUM for i in range(60)]) is None


def test_a_fit_is_the_same_each_time() -> None:
    first, again = (fit_filter(*clouds(60, apart=2.0)).filter for _ in range(2))
    assert first is not None
    assert again is not None
    assert np.array_equal(first.weights, again.weights)
    assert np.array_equal(first.held_out, again.held_out)


def varied(size: int, words: int, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(f"w{i}" for i in random.integers(0, words, 12)) for _ in range(size)]


def test_variety_is_compared_at_one_size() -> None:
    """Four times as many guided texts repeat each other more; that is no fall."""
    fall = variety_fall(varied(800, 8, seed=0), varied(200, 8, seed=1))
    assert fall is not None
    assert abs(fall) < 0.05
    poor = variety_fall(varied(800, 4, seed=0), varied(200, 8, seed=1))
    assert poor is not None
    assert poor > LIMIT


def test_variety_of_few_texts_is_not_judged() -> None:
    assert variety_fall(varied(500, 4, 0), varied(TEXTS - 1, 8, 1)) is None
    assert variety_fall(varied(TEXTS, 4, 0), varied(TEXTS, 8, 1)) is not None
    assert variety_fall(["a"] * 60, ["b"] * 60) is None
