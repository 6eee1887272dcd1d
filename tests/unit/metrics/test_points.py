"""What a sweep measures of a setting, on texts small enough to count by hand."""

import pytest

from workers.metrics.fit import diagnose
from workers.metrics.measure import Measure
from workers.metrics.points import Tried, floor_of, gain, measures

REAL = ["a b c d", "e f g h"]


def tried(*texts: str, log_probs: tuple[float | None, ...] = ()) -> list[Tried]:
    chosen = log_probs or (0.0,) * len(texts)
    pairs = zip(texts, chosen, strict=True)
    return [Tried((0, n), text, "generated", score) for n, (text, score) in enumerate(pairs)]


def by_name(rows: list[Tried], floor: float | None = -1.0) -> dict[str, float | None]:
    return {measure.name: measure.value for measure in measures(rows, REAL, floor, seed=1)}


def test_coherent_is_what_reaches_the_floor() -> None:
    rows = tried("a b c x", "p q r s", "t u v w", "k l m n", log_probs=(-0.5, -1.0, -1.1, None))
    found = by_name(rows)
    assert found["coherence"] == 0.5
    assert found["diversity"] == 1  # eight runs of three words, all different
    assert found["harmonic"] == pytest.approx(2 / 3)
    assert found["yield"] == 0.5
    assert found["near_copies_ngram"] == 0


def test_yield_leaves_out_copies_and_repeats() -> None:
    found = by_name(tried("a b c d", "p q r s", "p q r s", "t u v w"))
    assert (found["coherence"], found["yield"], found["verbatim"]) == (1, 0.5, 0.25)
    assert found["diversity"] == 0.75


def test_without_a_floor_every_text_that_has_a_token_is_coherent() -> None:
    assert by_name(tried("a b", "", log_probs=(-9.0, None)), floor=None)["coherence"] == 0.5
    assert floor_of(tried("a", "b", "c", log_probs=(-3.0, -1.0, None))) == pytest.approx(-2.9)
    assert floor_of([]) is None
    assert {m.value for m in measures([], REAL, None, seed=1)} == {None}


def test_the_gain_is_paired_by_seed() -> None:
    plain = tried(*("a b c d" for _ in range(8)))
    better = tried(*(f"p{n} q{n} r{n}" for n in range(8)))
    found = gain(better, plain, REAL, -1.0, "yield", seed=1)
    assert (found.value, found.n) == (1.0, 8)
    assert found.low == 1.0
    same = gain(plain, plain, REAL, -1.0, "harmonic", seed=1)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    worse = gain(plain, better, REAL, -1.0, "yield", seed=1)
    assert (worse.value, worse.low) == (-1.0, -1.0)
    assert gain(better, [], REAL, -1.0, "yield", seed=1).value is None


def probe(**values: float | None) -> dict[str, object]:
    known = {
        "base_loss": 2.0,
        "expert_loss": 1.0,
        "gain": 1.0,
        "gap": 0.0,
        "uplift_self": 0.8,
        "uplift_nearest": 0.1,
    } | values
    near = {name: None if v is None else v - 0.02 for name, v in known.items()}
    return {"real": 30, **{n: {"value": v, "low": near[n]} for n, v in known.items()}}


def share(value: float) -> Measure:
    return Measure("m", value, value, value, 10)


def test_an_expert_is_said_to_be_well_fit_underfit_or_memorising() -> None:
    assert diagnose(probe(), share(0), share(0.9)).verdict == "well fit"
    gap = diagnose(probe(gap=0.3), share(0), share(0.9))
    assert (gap.verdict, "0.30 nats" in gap.because[0]) == ("memorising", True)
    assert diagnose(probe(gap=0.04), share(0), share(0.9)).verdict == "well fit"
    copying = diagnose(probe(gap=None), share(0.2), share(0.9))
    assert (copying.verdict, "20%" in copying.because[0]) == ("memorising", True)
    assert diagnose(probe(gain=0.005), share(0), share(0.9)).verdict == "underfit"
    assert diagnose(probe(), share(0), share(0.4)).verdict == "underfit"
    assert diagnose({"real": 0}).verdict == "not known"


def test_a_model_that_does_not_read_its_context_cannot_be_steered_by_it() -> None:
    assert "η can steer it" in diagnose(probe()).context
    assert "can do little" in diagnose(probe(uplift_self=0.05)).context
    assert "can do little" in diagnose(probe(uplift_nearest=0.01)).context
