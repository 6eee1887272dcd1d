"""Steps rounded up in shape and recorded, on the CPU: the same tokens, whatever fills the shape."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Gemma3TextConfig, LlamaConfig, MixtralConfig, PreTrainedConfig

from factory.guidance import Guidance, Sampling
from workers.decoding import Completion, ModelPair, Request, SteerDecoder
from workers.models.graphs import KEPT, Replay, Step, Steps, recordable
from workers.streams import lane
from workers.streams.plan import Grain

from .test_decoder import mixed_requests

Pairs = Callable[[str, str], ModelPair]
SAMPLING = Sampling(max_new_tokens=20)


class Recorder:
    """Records as a GPU does: a replay runs the step again, on buffers that must not have moved."""

    recorded = 0
    replayed = 0

    def __call__(self, step: Step, integers: Tensor) -> Replay:
        Recorder.recorded += 1
        return partial(self._replay, step, integers, integers.data_ptr())

    def _replay(self, step: Step, integers: Tensor, address: int) -> None:
        assert integers.data_ptr() == address
        Recorder.replayed += 1
        step(integers)


def decode(
    pair: ModelPair, wanted: list[Request], slots: int, guidance: Guidance
) -> dict[int, Completion]:
    decoder = SteerDecoder(pair, guidance, SAMPLING, slots, trace=True)
    return {c.index: c for c in decoder.run(wanted)}


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shapes as on a GPU without kernels, scaled to tiny models."""
    monkeypatch.setattr(lane, "has_kernels", lambda _: False)
    monkeypatch.setattr(lane, "RECORDED", Grain(rows=4, columns=6, width=16))
    monkeypatch.setattr(Recorder, "recorded", 0)
    monkeypatch.setattr(Recorder, "replayed", 0)


def shared_requests() -> list[Request]:
    """Groups of 5 that share a negative context, some with a centre, of many lengths."""
    mixed = mixed_requests(24)
    return [
        Request((5, 6, 7), mixed[i // 5 * 4 + 1].negative_ids, seed=i, center_ids=(9, 8) * (i % 2))
        for i in range(20)
    ]


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_recorded_steps_give_the_same_tokens(family: str, kind: str, pairs: Pairs) -> None:
    pair = pairs(family, kind)
    for wanted in (mixed_requests(16), shared_requests()):
        for guidance in (Guidance(gamma=0.2, eta=0.5), Guidance(gamma=0, eta=0)):
            plain = decode(pair, wanted, 7, guidance)
            rounded = decode(replace(pair, recorder=Recorder), wanted, 7, guidance)
            for i, completion in plain.items():
                assert rounded[i].token_ids == completion.token_ids
                assert rounded[i].finish_reason == completion.finish_reason
                ours, theirs = rounded[i].trace, completion.trace
                assert ours is not None
                assert theirs is not None
                assert ours.scores == pytest.approx(theirs.scores, abs=1e-3)
    assert Recorder.replayed > 2 * Recorder.recorded > 0


@pytest.mark.usefixtures("coarse")
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_rows_that_fill_a_shape_never_leak(kind: str, folders: Callable[[str], Path]) -> None:
    """Rows of a poisoned context end with an error; they leave NaN behind in every buffer, where
    rows that only fill the shape and rows that start later stand next."""
    pair = ModelPair.load(folders("llama") / "base", folders("llama") / kind)
    guidance = Guidance(gamma=0.2, eta=0.5)
    wanted = [
        replace(r, negative_ids=tuple(min(i, 59) for i in r.negative_ids))
        for r in shared_requests()
    ]
    clean = decode(pair, wanted, 7, guidance)
    for model in {id(m): m for m in (pair.base, pair.expert)}.values():
        with torch.no_grad():
            model.get_input_embeddings().weight[60] = math.nan
    poisoned = [
        replace(r, negative_ids=(60, *r.negative_ids)) if i in (0, 8, 13) else r
        for i, r in enumerate(wanted)
    ]
    ends = decode(replace(pair, recorder=Recorder), poisoned, 7, guidance)
    unseen = [i for i, c in clean.items() if 60 not in c.token_ids and i not in (0, 8, 13)]
    assert len(unseen) > 8
    for i, completion in ends.items():
        if i in (0, 8, 13):
            assert completion.finish_reason == "error"
        if i in unseen:
            assert completion.token_ids == clean[i].token_ids


class OnCuda:
    """As much of a model as the rule looks at, on so many cards."""

    def __init__(self, config: PreTrainedConfig, cards: int = 1, device: str = "cuda") -> None:
        self.config = config
        self._devices = [torch.device(device, card) for card in range(cards)]

    def parameters(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(device=device) for device in self._devices]


def test_what_is_recorded() -> None:
    """One card, and a forward whose work does not depend on what is on it."""
    plain = LlamaConfig()
    assert recordable(OnCuda(plain))
    assert recordable(OnCuda(Gemma3TextConfig()))
    assert not recordable(OnCuda(plain, cards=2))
    assert not recordable(OnCuda(plain, device="cpu"))
    assert not recordable(OnCuda(MixtralConfig()))
    stretched = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    assert not recordable(OnCuda(LlamaConfig(rope_parameters=stretched)))


def test_a_step_is_recorded_when_its_key_comes_again() -> None:
    seen: list[list[int]] = []
    recorded: list[int] = []

    def record(step: Step, integers: Tensor) -> Replay:
        recorded.append(len(integers))
        return lambda: step(integers)

    steps = Steps(torch.device("cpu"), record)
    for numbers in ([1, 2], [3, 4], [5, 6]):
        steps.run("a", np.array(numbers), lambda x: seen.append(x.tolist()))
    assert seen == [[1, 2], [3, 4], [5, 6]]
    assert recorded == [2]
    for key in range(KEPT):
        steps.run(key, np.array([0]), lambda _: None)
    steps.run("a", np.array([7, 8]), lambda x: seen.append(x.tolist()))  # forgotten: run as it is
    assert (seen[-1], recorded) == ([7, 8], [2])
    steps.run("a", np.array([7, 8]), lambda _: None)
    steps.clear()
    steps.run("a", np.array([9, 9]), lambda x: seen.append(x.tolist()))
    assert (seen[-1], recorded) == ([9, 9], [2, 2])
