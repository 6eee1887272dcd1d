"""What people compare with: each against its published formula or transformers' own processor."""

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor
from transformers import (
    MinPLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
)

from factory.guidance import Guidance, Sampling
from factory.spec import PRESETS, GenerateSpec, Preset
from workers.decoding import steer_scores
from workers.decoding.sampling import Noise, draw, noise_keys

rows = hnp.arrays(np.float32, (2, 16), elements=st.floats(-6, 6, width=32)).map(torch.from_numpy)


def preset(name: str) -> GenerateSpec:
    body = {"kind": "generate", "dataset": "d", "model": "m", "count": 1, "preset": name}
    return GenerateSpec.model_validate(body)


def allowed(logits: Tensor, sampling: Sampling) -> set[int]:
    """Every token of the first row that some noise draws."""
    many = logits[:1].expand(4000, -1)
    keys = noise_keys(torch.arange(4000), torch.zeros(4000, dtype=torch.long))
    noise = Noise(logits.shape[-1], torch.device("cpu")).gumbel(keys)
    return set(draw(many, sampling, noise).tolist())


def test_every_preset_is_valid_and_all_are_listed() -> None:
    assert set(PRESETS) == set(get_args(Preset))
    for name in PRESETS:
        spec = preset(name)
        spec.guidance.build()
        spec.sampling.build()


@pytest.mark.parametrize("name", ["plain", "temperature", "nucleus", "min-p", "typical"])
def test_unguided_presets_score_as_the_expert_does(name: str) -> None:
    expert = torch.randn(3, 20)
    scores = steer_scores(expert, None, None, preset(name).guidance.build())
    assert torch.equal(scores, expert.log_softmax(-1))


@pytest.mark.parametrize(
    ("name", "warper"),
    [
        ("nucleus", TopPLogitsWarper(0.95)),
        ("min-p", MinPLogitsWarper(0.1)),
        ("typical", TypicalLogitsWarper(0.95)),
    ],
)
def test_a_filter_keeps_what_transformers_keeps(name: str, warper: object) -> None:
    sampling = preset(name).sampling.build()
    for seed in range(8):
        logits = 3 * torch.randn(1, 12, generator=torch.Generator().manual_seed(seed))
        kept = warper(None, logits.clone())  # type: ignore[operator]
        mine = allowed(logits, sampling)
        likely = {i for i in range(12) if kept.softmax(-1)[0, i] > 0.01}
        assert likely <= mine <= set(np.flatnonzero(kept[0] > -math.inf).tolist())


def test_typical_sees_what_the_filters_before_left() -> None:
    logits = torch.tensor([[2.0, 1.9, 1.8, -1.0, -2.0, -3.0]])
    left = TopKLogitsWarper(4)(None, logits)
    kept = TypicalLogitsWarper(mass=0.3)(None, left)
    wanted = set(np.flatnonzero(kept[0] > -math.inf).tolist())
    assert allowed(logits, Sampling(top_k=4, typical_p=0.3)) == wanted


@settings(max_examples=60, deadline=None)
@given(expert=rows, base=rows, weight=st.floats(0, 2, width=32))
def test_contrastive_decoding_is_its_formula(expert: Tensor, base: Tensor, weight: float) -> None:
    e, b = expert.log_softmax(-1), base.log_softmax(-1)
    guidance = Guidance(rule="contrastive", gamma=weight, eta=0)
    assert torch.equal(steer_scores(expert, base, None, guidance), e - weight * b)


def test_the_contrastive_preset_by_hand() -> None:
    """p = .6, .3, .08, .02; α = .1 keeps the first three; of these the base likes the first."""
    expert = torch.tensor([[0.6, 0.3, 0.08, 0.02]]).log()
    base = torch.tensor([[0.9, 0.05, 0.04, 0.01]]).log()
    scores = steer_scores(expert, base, None, preset("contrastive").guidance.build())[0]
    want = torch.tensor([0.6 / 0.9, 0.3 / 0.05, 0.08 / 0.04]).log()
    torch.testing.assert_close(scores[:3], want)
    assert scores[3] == torch.finfo(torch.float32).min


def test_contrastive_takes_negatives_as_well() -> None:
    e, b, n, c = (torch.randn(2, 9).log_softmax(-1) for _ in range(4))
    guidance = Guidance(rule="contrastive", gamma=0.5, eta=0.7)
    torch.testing.assert_close(
        steer_scores(e, b, n, guidance, c), e - 0.5 * b - 0.7 * (n - c), atol=1e-4, rtol=0
    )


@settings(max_examples=60, deadline=None)
@given(expert=rows, negative=rows)
def test_classifier_free_guidance_is_transformers_own(expert: Tensor, negative: Tensor) -> None:
    """The expert after the negative prompt is the unconditional stream."""
    spec = preset("cfg")
    assert not spec.negatives.center
    theirs = UnbatchedClassifierFreeGuidanceLogitsProcessor(1.5, None)  # type: ignore[arg-type]
    theirs.get_unconditional_logits = lambda _: negative[:, None]  # type: ignore[method-assign]
    got = steer_scores(expert, None, negative, spec.guidance.build())
    torch.testing.assert_close(got, theirs(None, expert), atol=1e-4, rtol=0)
