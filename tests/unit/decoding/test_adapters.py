"""Accepted-minus-rejected adapters: the reference's tokens, a cap, and what they leave alone."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from factory.errors import ModelError
from factory.guidance import Guidance, Sampling
from workers.decoding import Completion, ModelPair, Request, SteerDecoder, Trace
from workers.levers.adapters import Adapters, AdaptersTerm
from workers.levers.verdict import HeadTerm, divergence
from workers.models.lora import adapter_of
from workers.streams import MASKED, kv, lane

from .conftest import random_model, save_adapter
from .reference import Apart, Reference
from .test_decoder import assert_same, guidances, mixed_requests, samplings
from .test_decoder import requests as some_requests
from .test_graphs import Recorder
from .test_levers import random_head

Folders = Callable[[str], Path]
SAMPLING = Sampling(max_new_tokens=12)
NO_ETA = Guidance(eta=0)
WEIGHT, CAP = 1.5, 0.4


@dataclass(frozen=True)
class Made:
    """Two random adapters, and the base with each merged in."""

    adapters: Adapters
    apart: Apart


def two_adapters(family: str, seed: int, folder: Path) -> Made:
    """Made anew, in subfolders of a folder."""
    targets = "all-linear" if family != "gpt2" else ["c_attn", "c_proj", "c_fc"]
    parts, merged = [], []
    for number in (seed, seed + 1):
        own = folder / str(number)
        merged.append(save_adapter(random_model(family, 1), own, number, target_modules=targets))
        fresh = peft.PeftModel.from_pretrained(random_model(family, 1), str(own))
        parts.append(adapter_of(fresh))
    tensors = Adapters("", *parts).tensors
    return Made(Adapters.of(f"{family}-{seed}", tensors), Apart(*merged, WEIGHT, CAP))


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], Made]:
    """Adapters of a family, by a seed."""
    return cache(lambda family, seed: two_adapters(family, seed, tmp_path_factory.mktemp("two")))


@pytest.fixture
def load(folders: Folders) -> Callable[[str, str], ModelPair]:
    """A pair of a test's own."""

    def loaded(family: str, kind: str) -> ModelPair:
        folder = folders(family)
        return ModelPair.load(folder / "base", folder / kind)

    return loaded


def run(pair: ModelPair, wanted: list[Request], *terms: object, **more: object) -> list[Completion]:
    options = {"guidance": NO_ETA, "sampling": SAMPLING, "slots": 5, "trace": True, **more}
    decoder = SteerDecoder(pair, terms=terms, **options)  # type: ignore[arg-type]
    return sorted(decoder.run(wanted), key=lambda completion: completion.index)


def token_ids(completions: list[Completion]) -> list[tuple[int, ...]]:
    return [completion.token_ids for completion in completions]


def mixed(count: int) -> list[Request]:
    """Two of three are steered by what was learned."""
    return [replace(r, learned=i % 3 > 0) for i, r in enumerate(mixed_requests(count))]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    wanted=st.lists(st.tuples(some_requests(), st.booleans()), min_size=1, max_size=5),
    guidance=guidances,
    sampling=samplings,
    slots=st.integers(1, 5),
)
def test_tokens_are_the_references(
    family: str,
    wanted: list[tuple[Request, bool]],
    guidance: Guidance,
    sampling: Sampling,
    slots: int,
    pairs: Callable[[str, str], ModelPair],
    folders: Folders,
    made: Callable[[str, int], Made],
) -> None:
    """Rows with and without them side by side."""
    asked = [replace(request, learned=learned) for request, learned in wanted]
    found = made(family, 4)
    terms = [AdaptersTerm(found.adapters, WEIGHT, CAP)]
    pair = pairs(family, "lora")
    decoder = SteerDecoder(pair, guidance, sampling, slots, trace=True, terms=terms)
    models = replace(Reference.load(folders(family), "lora"), apart=found.apart)
    for completion in decoder.run(asked):
        assert_same(completion, asked[completion.index], models, decoder, tolerance=2e-3)


def test_rows_that_they_do_not_steer_are_as_without_them(
    load: Callable[[str, str], ModelPair], made: Callable[[str, int], Made]
) -> None:
    pair = load("llama", "lora")
    plain = run(pair, mixed(24))
    steered = run(pair, mixed(24), AdaptersTerm(made("llama", 4).adapters, WEIGHT, CAP))
    assert token_ids(plain) != token_ids(steered)
    for i, (one, two) in enumerate(zip(plain, steered, strict=True)):
        assert one.trace is not None
        assert two.trace is not None
        if i % 3 == 0:
            assert two.token_ids == one.token_ids
        assert (two.trace.adapters is None) == (i % 3 == 0)
        assert one.trace.adapters is None


def test_without_weight_nothing_is_attached(
    load: Callable[[str, str], ModelPair], made: Callable[[str, int], Made]
) -> None:
    pair = load("llama", "lora")
    plain = run(pair, mixed(9))
    assert token_ids(run(pair, mixed(9), AdaptersTerm(made("llama", 4).adapters, 0.0, CAP))) == (
        token_ids(plain)
    )
    assert pair.rows.attached == ""


def test_a_run_without_them_makes_no_row_more_and_takes_no_memory(
    load: Callable[[str, str], ModelPair], made: Callable[[str, int], Made]
) -> None:
    pair, term = load("llama", "lora"), AdaptersTerm(made("llama", 4).adapters, WEIGHT, CAP)
    seen: list[int] = []
    pair.expert.register_forward_pre_hook(
        lambda _, __, given: seen.append(len(given["input_ids"])), with_kwargs=True
    )

    def rows(*terms: object, learned: bool = True) -> list[int]:
        seen.clear()
        run(pair, [replace(r, learned=learned) for r in mixed_requests(9)], *terms)
        return list(seen)

    def held() -> int:
        gc.collect()
        tensors = [x for x in gc.get_objects() if type(x) is torch.Tensor]
        return sum(
            {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}.values()
        )

    before, memory = rows(), held()
    assert rows(term, learned=False) == before
    assert sum(rows(term)) > 2 * sum(before)
    assert held() > memory
    assert rows() == before
    pair.attach()
    assert held() == memory
    assert pair.rows.attached == ""


@pytest.mark.parametrize("cap", [0.01, 0.3, 2.0])
def test_the_cap_holds_at_every_step(
    cap: float, load: Callable[[str, str], ModelPair], made: Callable[[str, int], Made]
) -> None:
    pair = load("llama", "lora")
    term = AdaptersTerm(made("llama", 4).adapters, 50.0, cap)
    guidance = Guidance(eta=0, nucleus=0.9)
    decoder = SteerDecoder(pair, guidance, SAMPLING, 1, terms=[term])
    moved = []
    for request in mixed_requests(4):
        tokens = run(pair, [request], term, guidance=guidance)[0].token_ids
        for step in decoder.along(request, tokens):
            log_p = step.expert.masked_fill(~step.keep, MASKED).log_softmax(-1)
            f = step.scores.masked_fill(~step.keep, MASKED).log_softmax(-1) - log_p
            moved.append(float(divergence(log_p, f, step.keep, torch.ones(1))[0]))
            assert (step.scores[~step.keep] == MASKED).all()
    assert max(moved) <= cap + 1e-3
    assert sum(each > 0.8 * cap for each in moved) > len(moved) / 3


def test_both_learned_levers_act_together_each_within_its_cap(
    load: Callable[[str, str], ModelPair], made: Callable[[str, int], Made]
) -> None:
    pair = load("gpt2", "lora")
    head = HeadTerm(random_head(1, 0.3), 0.7, 1e9)
    adapters = AdaptersTerm(made("gpt2", 4).adapters, WEIGHT, 1e9)
    both = run(pair, mixed_requests(8), head, adapters)
    alone = run(pair, mixed_requests(8), adapters)
    for completion in both:
        trace = completion.trace
        assert trace is not None
        assert trace.scores == pytest.approx(trace.expert + trace.head + trace.adapters, abs=1e-4)
        assert np.abs(trace.adapters).max() > 0.1
        again = Trace.from_bytes(trace.to_bytes())
        assert np.array_equal(again.head, trace.head)
        assert np.array_equal(again.adapters, trace.adapters)
    trace = alone[0].trace
    assert trace is not None
    again = Trace.from_bytes(trace.to_bytes())
    assert again.head is None
    assert np.array_equal(again.adapters, trace.adapters)
    first = both[0].trace
    assert first is not None
    same = np.array(both[0].token_ids[:1]) == np.array(alone[0].token_ids[:1])
    assert not same[0] or first.adapters[0] == pytest.approx(trace.adapters[0], abs=1e-4)


def test_a_refit_takes_the_place_of_what_was_attached(
    load: Callable[[str, str], ModelPair],
    made: Callable[[str, int], Made],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also with buffers and recorded steps that a run left to the next."""
    monkeypatch.setattr(lane, "RECORDED", kv.Grain(rows=4, columns=6, width=16))
    pair = replace(load("llama", "lora"), recorder=Recorder)
    first, second = (AdaptersTerm(made("llama", n).adapters, WEIGHT, CAP) for n in (4, 6))
    made_first = token_ids(run(pair, mixed(12), first))
    kept = dict(pair.idle)
    assert kept
    assert token_ids(run(pair, mixed(12), first)) == made_first
    assert pair.idle == kept, "the same again is no work"
    made_second = token_ids(run(pair, mixed(12), second))
    assert made_second != made_first
    assert pair.idle.keys() == kept.keys()
    assert pair.idle != kept, "what was recorded with others is not replayed"
    assert made_second == token_ids(run(load("llama", "lora"), mixed(12), second))
    assert token_ids(run(pair, mixed(12), first)) == made_first


def test_a_run_whose_adapters_were_replaced_ends(
    load: Callable[[str, str], ModelPair], made: Callable[[str, int], Made]
) -> None:
    pair = load("llama", "lora")
    first, second = (AdaptersTerm(made("llama", n).adapters, WEIGHT, CAP) for n in (4, 6))
    steps = SteerDecoder(pair, NO_ETA, SAMPLING, 2, terms=[first]).steps(mixed_requests(2))
    next(steps)
    second.on(pair)
    with pytest.raises(LookupError, match="other adapters"):
        next(steps)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_recorded_steps_give_the_same_tokens(
    family: str,
    load: Callable[[str, str], ModelPair],
    made: Callable[[str, int], Made],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair, term = load(family, "lora"), AdaptersTerm(made(family, 4).adapters, WEIGHT, CAP)
    options = {"guidance": Guidance(gamma=0.2, eta=0.5), "slots": 7}
    plain = run(pair, mixed(20), term, **options)
    monkeypatch.setattr(lane, "RECORDED", kv.Grain(rows=4, columns=6, width=16))
    monkeypatch.setattr(Recorder, "recorded", 0)
    monkeypatch.setattr(Recorder, "replayed", 0)
    recorded = replace(pair, recorder=Recorder)
    for _ in range(2):
        assert token_ids(run(recorded, mixed(20), term, **options)) == token_ids(plain)
    assert Recorder.replayed > Recorder.recorded > 0


def test_adapters_of_another_expert_or_for_two_models_are_refused(
    load: Callable[[str, str], ModelPair], made: Callable[[str, int], Made]
) -> None:
    found = made("llama", 4).adapters
    with pytest.raises(ModelError, match="LoRA adapter"):
        AdaptersTerm(found, 1.0, 0.3).on(load("llama", "full"))
    with pytest.raises(ModelError, match="another expert"):
        AdaptersTerm(found, 1.0, 0.3).on(load("gpt2", "lora"))
    with pytest.raises(ValueError, match="cap above 0"):
        AdaptersTerm(found, 1.0, 0.0)
