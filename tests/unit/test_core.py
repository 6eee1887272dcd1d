"""What needs no service: ids, errors, settings and job specs."""

import inspect
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from factory import errors, settings
from factory.errors import FactoryError, FieldError
from factory.ids import new_id
from factory.metrics import NAMES
from factory.settings import Settings
from factory.spec import (
    MAX_SEED,
    EvaluateSpec,
    GenerateSpec,
    TrainSpec,
    is_audit,
    is_reviewed,
    job_spec,
    row_seed,
)

GENERATE = {"kind": "generate", "dataset": "d", "model": "m", "count": 5}
DRAWN = re.compile(r"^[│├└─ ]*([A-Z]\w+)(?: \(retryable\))?  +\w", re.MULTILINE)


def generate(**fields: Any) -> GenerateSpec:
    spec = job_spec.validate_python({**GENERATE, **fields})
    assert isinstance(spec, GenerateSpec)
    return spec


def test_ids_are_uuid7_in_the_order_of_their_making() -> None:
    before = time.time_ns() // 1_000_000
    ids = []
    for _ in range(500):
        ids.append(new_id())
        time.sleep(1e-6)
    after = time.time_ns() // 1_000_000
    assert ids == sorted(ids)
    assert len(set(ids)) == 500
    for id_ in ids:
        assert (id_.version, id_.variant) == (7, "specified in RFC 4122")
        assert before <= id_.int >> 80 <= after


def test_the_drawn_tree_of_errors_is_the_real_one() -> None:
    drawn = DRAWN.findall(errors.__doc__ or "")
    real = [
        name
        for name, value in inspect.getmembers(errors, inspect.isclass)
        if issubclass(value, FactoryError)
    ]
    assert sorted(drawn) == sorted(real)
    depth = {
        name: (len(line) - len(line.lstrip(" │├└─"))) // 4
        for line in (errors.__doc__ or "").splitlines()
        for name in DRAWN.findall(line)
    }
    for name in real:
        ancestors = [c for c in getattr(errors, name).__mro__ if issubclass(c, FactoryError)]
        assert len(ancestors) == depth[name], name


def test_every_error_has_a_status_and_a_title_and_says_whether_to_retry() -> None:
    for name in DRAWN.findall(errors.__doc__ or ""):
        kind = getattr(errors, name)
        assert 400 <= kind.status <= 599
        assert kind.title
        assert kind.retryable == (f"{name} (retryable)" in (errors.__doc__ or ""))
    error = errors.Invalid("bad", [FieldError("a", "b")])
    assert (str(error), error.detail, error.errors) == ("bad", "bad", (FieldError("a", "b"),))


def test_settings_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FACTORY_HOME", str(tmp_path / "x" / ".." / "home"))
    monkeypatch.setenv("FACTORY_MODEL_ROOTS", "/a:/b:")
    monkeypatch.setenv("FACTORY_MODEL_HUB_IDS", "org/one,org/two")
    monkeypatch.setenv("FACTORY_SLOTS", "auto")
    loaded = settings.load()
    assert loaded.home == tmp_path / "home"
    assert loaded.roots == (Path("/a"), Path("/b"), tmp_path / "home" / "models")
    assert loaded.model_hub_ids == ("org/one", "org/two")
    assert loaded.slots == "auto"
    with pytest.raises(ValidationError):
        loaded.port = 1  # type: ignore[misc]


def test_settings_out_of_range_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTORY_PORT", "70000")
    with pytest.raises(ValidationError, match="port"):
        settings.load()
    monkeypatch.delenv("FACTORY_PORT")
    for slots in ("0", "many", "4097"):
        monkeypatch.setenv("FACTORY_SLOTS", slots)
        with pytest.raises(ValidationError, match="slots"):
            settings.load()


def test_every_setting_says_what_it_is() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_a_spec_without_settings_has_the_defaults() -> None:
    spec = generate()
    assert spec.guidance.model_dump() == {
        "rule": "steer",
        "gamma": 0.0,
        "eta": 0.5,
        "alpha": 0.0,
        "nucleus": 0.95,
    }
    assert spec.negatives.sources == {"rejected": 2, "synthetic": 1}
    assert (spec.negatives.count, spec.negatives.center, spec.audit) == (3, True, 0.2)


def test_the_paper_preset_is_the_published_settings() -> None:
    spec = generate(preset="paper")
    assert (spec.guidance.rule, spec.guidance.gamma, spec.guidance.eta) == ("paper", 0.2, 0.2)
    assert (spec.guidance.alpha, spec.guidance.nucleus, spec.sampling.top_k) == (0.0, 1.0, 10)
    assert (spec.negatives.count, spec.negatives.sources) == (5, {"real": 1, "synthetic": 1})


def test_what_is_given_comes_before_a_preset() -> None:
    spec = generate(preset="paper", guidance={"eta": 0.7}, sampling={"temperature": 2})
    assert (spec.guidance.rule, spec.guidance.eta, spec.guidance.gamma) == ("paper", 0.7, 0.2)
    assert (spec.sampling.top_k, spec.sampling.temperature) == (10, 2.0)


def test_a_stored_spec_is_the_same_spec_again() -> None:
    for spec in (generate(seed=1, preset="paper"), generate(seed=2, audit=0.5)):
        assert job_spec.validate_python(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize(
    ("where", "fields"),
    [
        ("count", {"count": 0}),
        ("seed", {"seed": MAX_SEED + 1}),
        ("dataset", {"dataset": "No Spaces"}),
        ("guidance.eta", {"guidance": {"eta": -1}}),
        ("guidance.rule", {"guidance": {"rule": "other"}}),
        ("guidance.nucleus", {"guidance": {"nucleus": 0}}),
        ("sampling.stop", {"sampling": {"stop": [""]}}),
        ("negatives.sources", {"negatives": {"sources": {"fake": 1}}}),
        ("audit", {"audit": 1.5}),
        ("preset", {"preset": "mine"}),
        ("nonsense", {"nonsense": 1}),
        ("shard_size", {"shard_size": 0}),
    ],
)
def test_a_spec_out_of_range_names_the_field(where: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as raised:
        generate(**fields)
    named = [".".join(str(part) for part in e["loc"][1:]) for e in raised.value.errors()]
    assert any(name.startswith(where) for name in named), named


def test_kinds_have_specs_of_their_own() -> None:
    train = {"kind": "train", "dataset": "d", "model": "m", "base": "/b"}
    assert isinstance(job_spec.validate_python(train), TrainSpec)
    with pytest.raises(ValidationError):
        job_spec.validate_python({**train, "count": 3})
    with pytest.raises(ValidationError):
        job_spec.validate_python({"kind": "other"})
    evaluate = {"kind": "evaluate", "dataset": "d"}
    spec = job_spec.validate_python(evaluate)
    assert isinstance(spec, EvaluateSpec)
    assert spec.metrics == NAMES
    for wrong in ({"metrics": ["charm"]}, {"metrics": []}, {"job": "7"}, {"limit": 0}):
        with pytest.raises(ValidationError):
            job_spec.validate_python(evaluate | wrong)


@given(seed=st.integers(0, MAX_SEED), ordinal=st.integers(0, 10**6))
def test_row_seeds_are_in_bounds_and_differ(seed: int, ordinal: int) -> None:
    assert 0 <= row_seed(seed, ordinal) <= MAX_SEED
    assert row_seed(seed, ordinal) == row_seed(seed, ordinal)
    assert row_seed(seed, ordinal) != row_seed(seed, ordinal + 1)


@given(share=st.floats(0, 1), count=st.integers(1, 400))
def test_the_audit_share_is_exact_and_evenly_spread(share: float, count: int) -> None:
    marked = [is_audit(share, ordinal) for ordinal in range(count)]
    assert abs(sum(marked) - share * count) < 1 + 1e-6
    for half in (marked[: count // 2], marked[count // 2 :]):
        assert abs(sum(half) - share * len(half)) < 1 + 1e-6


@pytest.mark.parametrize(("share", "of_100"), [(0, 0), (0.2, 20), (0.29, 29), (0.5, 50), (1, 100)])
def test_an_audit_share_that_comes_out_even_is_met(share: float, of_100: int) -> None:
    assert sum(is_audit(share, ordinal) for ordinal in range(100)) == of_100


def test_a_fraction_is_reviewed() -> None:
    seeds = [row_seed(3, i) for i in range(4000)]
    assert all(is_reviewed(1, seed) for seed in seeds)
    assert not any(is_reviewed(0, seed) for seed in seeds)
    assert 0.45 < sum(is_reviewed(0.5, seed) for seed in seeds) / 4000 < 0.55
