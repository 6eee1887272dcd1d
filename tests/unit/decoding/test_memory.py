"""The plan of memory: linear, monotone, and not below what is really taken."""

import gc
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from factory.guidance import Guidance, Sampling
from workers.decoding import ModelPair, Request, SteerDecoder
from workers.levers.adapters import Adapters, AdaptersTerm
from workers.memory import MemoryPlan, most_slots, plan
from workers.models.lora import adapter_of
from workers.streams.plan import Grain

from .reference import plain_model

Pairs = Callable[[str, str], ModelPair]
lengths = st.integers(1, 2000)


@st.composite
def plans(draw: st.DrawFn) -> MemoryPlan:
    grain = draw(st.sampled_from([Grain(), Grain(rows=32, columns=32, width=128)]))
    roles = draw(st.sampled_from([["expert"], ["expert", "base"], ["expert", "negative"]]))
    return MemoryPlan(
        contexts={role: (draw(lengths), draw(st.integers(1, 16))) for role in roles},
        new=draw(st.integers(1, 500)),
        vocab=draw(st.integers(10, 150_000)),
        token=draw(st.integers(64, 1_000_000)),
        width=draw(st.integers(64, 1_000_000)),
        scores=draw(st.integers(64, 1_000_000)),
        windowed=draw(st.booleans()),
        prefill=1024,
        grain=grain,
    )


@given(plans(), st.integers(1, 300), st.integers(0, 2**38))
def test_more_slots_take_more_and_what_is_picked_fits(
    planned: MemoryPlan, slots: int, free: int
) -> None:
    assert 0 < planned.bytes(slots) < planned.bytes(slots + 1)
    picked = planned.slots(free, 256)
    assert 1 <= picked <= 256
    if picked > 1:
        assert planned.bytes(picked) < free
    if picked < 256:
        assert planned.bytes(picked + 1) > free * 0.89


@given(st.integers(1, 500), st.integers(1, 500), st.integers(1, 64))
def test_what_is_held_is_linear_in_slots_and_lengths(length: int, new: int, slots: int) -> None:
    def held(slots: int, length: int, new: int) -> int:
        contexts = {"expert": (length, 1)}
        sizes = {"vocab": 7, "token": 512, "width": 1, "scores": 1, "prefill": 1}
        return MemoryPlan(contexts, new, windowed=False, grain=Grain(), **sizes).held(slots)

    for step in (lambda k: (slots + k, length, new), lambda k: (slots, length + k, new),
                 lambda k: (slots, length, new + k)):  # fmt: skip
        assert held(*step(2)) - held(*step(1)) == held(*step(1)) - held(*step(0)) > 0


@pytest.mark.parametrize("kind", ["full", "lora", "adapters"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_the_plan_covers_what_is_taken(
    family: str, kind: str, pairs: Pairs, folders: Callable[[str], Path]
) -> None:
    """Tensors that a run holds between steps: no more than planned, and more than a third."""
    pair = pairs(family, "full" if kind == "full" else "lora")
    guidance, sampling = Guidance(gamma=0.2, eta=0.5), Sampling(max_new_tokens=40)
    wanted = [
        Request((5,) * 40, (6 + i,) * 50, seed=i, center_ids=(7 + i,) * 48) for i in range(12)
    ]
    contexts = {"expert": (40, 12), "base": (40, 12), "negative": (50, 1), "center": (48, 1)}
    terms: list[AdaptersTerm] = []
    if kind == "adapters":
        contexts |= {"accepted": (40, 12), "rejected": (40, 12)}
        folder = folders(family)
        adapted = peft.PeftModel.from_pretrained(plain_model(folder / "base"), folder / "lora")
        parts = adapter_of(adapted)
        terms = [AdaptersTerm(Adapters("one", parts, parts), 1.0, 0.3)]
        terms[0].on(pair)
    planned = plan(pair, guidance, sampling, contexts).held(12)

    def taken() -> int:
        gc.collect()
        tensors = [x for x in gc.get_objects() if type(x) is torch.Tensor]
        storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
        return sum(storages.values())

    before = taken()
    stop = {"trace": True, "should_stop": lambda ids: True}
    run = SteerDecoder(pair, guidance, sampling, 12, terms=terms, **stop)
    rows = run.run(wanted)
    next(rows)
    held = taken() - before
    assert planned / 3 < held <= planned


def test_a_stream_that_never_runs_takes_nothing(pairs: Pairs) -> None:
    contexts = {"expert": (40, 12), "base": (40, 12), "negative": (50, 1)}
    used = plan(
        pairs("llama", "lora"), Guidance(gamma=0, eta=0), Sampling(max_new_tokens=9), contexts
    )
    assert list(used.contexts) == ["expert"]
    assert most_slots(torch.device("cpu")) < most_slots(torch.device("cuda"))
