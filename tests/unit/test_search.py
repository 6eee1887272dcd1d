"""Searching settings: what is tried, who goes on, which points nobody beats."""

import itertools
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from factory import search
from factory.feedback import Feedback
from factory.search import Rung
from factory.spec import MAX_POINTS, Defaults, GenerateSpec, SweepSpec, job_spec

values = st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True)
spaces = st.dictionaries(st.sampled_from("abcd"), values, min_size=1)


@given(spaces)
def test_a_grid_has_every_choice_once(space: dict[str, list[int]]) -> None:
    found = [tuple(sorted(choice.items())) for choice in search.grid(space)]
    assert len(set(found)) == len(found) == search.size(space)
    assert all(value in space[name] for choice in found for name, value in choice)


@given(spaces, st.integers(0, 300), st.integers(0, 2**53))
def test_drawn_choices_are_different_ones_of_the_grid(
    space: dict[str, list[int]], number: int, seed: int
) -> None:
    drawn = search.draw(space, number, seed)
    assert len(drawn) == min(number, search.size(space))
    whole = search.grid(space)
    assert all(choice in whole for choice in drawn)
    assert len({tuple(choice.items()) for choice in drawn}) == len(drawn)
    assert drawn == search.draw(space, number, seed)
    assert all(list(choice) == list(space) for choice in drawn)


@given(st.integers(1, 300), st.integers(1, 64), st.integers(1, 8))
def test_each_round_halves_the_points_and_doubles_their_samples(
    points: int, samples: int, last: int
) -> None:
    rungs = search.halving(points, samples, last)
    assert rungs[0] == Rung(points, samples)
    assert rungs[-1].points == min(points, last)
    total = samples
    for before, after in itertools.pairwise(rungs):
        assert after.points == max(last, (before.points + 1) // 2)
        assert after.samples == total
        total += after.samples
    assert search.budget(rungs) == sum(rung.points * rung.samples for rung in rungs)


scores = st.lists(st.none() | st.floats(0, 1), min_size=1, max_size=40)


@given(scores, st.integers(1, 10))
def test_the_best_go_on(found: list[float | None], keep: int) -> None:
    kept = search.best(dict(enumerate(found)), keep)
    assert len(kept) == min(keep, len(found))
    left = [found[i] for i in range(len(found)) if i not in kept]
    worst = min((-1.0 if found[i] is None else found[i] for i in kept), default=0)
    assert all(score is None or score <= worst for score in left)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=64, unique=True), st.integers(1, 4))
def test_without_noise_the_search_finds_the_best(truth: list[float], samples: int) -> None:
    asked: dict[int, int] = {}

    def measure(positions: Sequence[int], number: int) -> Mapping[int, float]:
        for position in positions:
            asked[position] = asked.get(position, 0) + number
        return {position: truth[position] for position in positions}

    rungs = search.halving(len(truth), samples)
    found = search.search(len(truth), rungs, measure)
    assert found.ranking[0] == truth.index(max(truth))
    assert found.samples == sum(asked.values()) == search.budget(rungs)


def test_a_search_needs_fewer_samples_than_the_grid_at_the_same_precision() -> None:
    """64 points on 16 samples first; the last two have 512 each."""
    rungs = search.halving(64, 16)
    assert search.budget(rungs) <= 64 * 16 * len(rungs)
    assert sum(rung.samples for rung in rungs) == 16 * 2 ** (len(rungs) - 1)


shares = st.tuples(st.floats(0, 1), st.floats(0, 1))


@given(st.lists(shares, min_size=1, max_size=40))
def test_nobody_beats_a_point_of_the_front_and_somebody_beats_every_other(
    points: list[tuple[float, float]],
) -> None:
    front = search.pareto(points)

    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one != other and one[0] >= other[0] and one[1] >= other[1]

    for i, point in enumerate(points):
        assert (i in front) == (not any(beats(other, point) for other in points))
    assert [points[i] for i in front] == sorted((points[i] for i in front), reverse=True)


@pytest.mark.parametrize(("one", "other", "mean"), [(1, 1, 1), (0.5, 1, 2 / 3), (0, 1, 0)])
def test_harmonic(one: float, other: float, mean: float) -> None:
    assert search.harmonic(one, other) == pytest.approx(mean)


def sweep(**fields: object) -> SweepSpec:
    spec = job_spec.validate_python({"kind": "sweep", "dataset": "d", "model": "m", **fields})
    assert isinstance(spec, SweepSpec)
    return spec


def test_a_sweep_is_a_calibration_unless_said_otherwise() -> None:
    spec = sweep(seed=1)
    assert (spec.method, spec.points, len(spec.choices())) == ("halving", 48, 48)
    assert any(choice.get("guidance.gamma", 0) < 0 for choice in spec.choices())
    assert spec.choices()[0] == {"guidance.gamma": 0.0, "guidance.eta": 0.0}
    assert [rung.points for rung in spec.rungs()] == [48, 24, 12, 6, 3, 2]
    again = sweep(**spec.model_dump(mode="json"))
    assert again == spec
    assert again.choices() == spec.choices()


def test_a_point_is_a_generate_job_that_keeps_what_the_sweep_fixes() -> None:
    spec = sweep(
        method="grid",
        space={"guidance.eta": [0.5], "preset": ["contrastive"]},
        sampling={"max_new_tokens": 9},
        guidance={"alpha": 0.3},
    )
    point = spec.point(spec.choices()[1], 7, 11)
    assert (point.guidance.rule, point.guidance.eta, point.guidance.gamma) == (
        "contrastive",
        0.5,
        1,
    )
    assert (point.guidance.alpha, point.sampling.max_new_tokens) == (0.3, 9)
    assert (point.count, point.seed, point.audit, point.review.push) == (7, 11, 0, False)
    assert point.feedback == Feedback()  # the dataset's levers would act on some settings more


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"space": {"guidance.gamma": [0, 99]}}, "guidance.gamma"),
        ({"space": {"guidance.other": [1]}}, "guidance.other"),
        ({"space": {"guidance.gamma": []}}, "guidance.gamma"),
        ({"method": "grid", "space": {"sampling.top_k": list(range(60)),
          "guidance.eta": [0, 1]}}, str(MAX_POINTS)),
    ],
)  # fmt: skip
def test_a_space_that_cannot_be_tried_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        sweep(**fields)


def generate(**fields: object) -> GenerateSpec:
    body = {"kind": "generate", "dataset": "d", "model": "m", "count": 1, "seed": 5, **fields}
    return GenerateSpec.model_validate(body)


DEFAULTS = Defaults.model_validate(
    {
        "guidance": {"gamma": -0.25, "eta": 1.0, "nucleus": 0.9},
        "negatives": {"sources": {"real": 1}},
        "sampling": {"temperature": 1.3},
    }
)


def test_defaults_fill_what_a_job_leaves_out_field_by_field() -> None:
    filled = DEFAULTS.fill(generate(guidance={"eta": 0.25}, sampling={"top_k": 5}))
    assert (filled.guidance.gamma, filled.guidance.eta, filled.guidance.nucleus) == (
        -0.25,
        0.25,
        0.9,
    )
    assert (filled.sampling.temperature, filled.sampling.top_k) == (1.3, 5)
    assert filled.negatives.sources == {"real": 1}
    assert filled.seed == 5
    assert Defaults().fill(generate()) == generate()


def test_a_preset_or_rule_that_is_named_comes_instead_of_the_defaults() -> None:
    for preset in ("default", "paper"):
        assert DEFAULTS.fill(generate(preset=preset)) == generate(preset=preset)
    paper = DEFAULTS.fill(generate(guidance={"rule": "paper"}))
    assert paper.guidance == generate(guidance={"rule": "paper"}).guidance
    assert paper.sampling.temperature == 1.3
