"""The rules and masks on hand-made rows, against the formulas written out."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from factory.guidance import Guidance
from workers.decoding import steer_scores
from workers.decoding.guidance import nucleus, plausible

MIN = torch.finfo(torch.float32).min
rows = hnp.arrays(np.float32, (3, 9), elements=st.floats(-30, 30, width=32)).map(torch.from_numpy)
weights = st.floats(0, 10, width=32)


def open_mask(rule: str, gamma: float, eta: float) -> Guidance:
    return Guidance(rule=rule, gamma=gamma, eta=eta, alpha=0, nucleus=1)


@settings(max_examples=100, deadline=None)
@given(expert=rows, base=rows, negative=rows, gamma=weights, eta=weights)
def test_paper_rule_is_the_formula_to_the_bit(
    expert: Tensor, base: Tensor, negative: Tensor, gamma: float, eta: float
) -> None:
    e, b, n = (x.log_softmax(-1) for x in (expert, base, negative))
    want = (1 + gamma) * e - gamma * b - eta * n
    got = steer_scores(expert, base, negative, open_mask("paper", gamma, eta))
    assert torch.equal(got, want)


@settings(max_examples=100, deadline=None)
@given(expert=rows, base=rows, negative=rows, center=rows, gamma=st.floats(-5, 5), eta=weights)
def test_steer_rule(
    expert: Tensor, base: Tensor, negative: Tensor, center: Tensor, gamma: float, eta: float
) -> None:
    e, b, n, c = (x.double().log_softmax(-1) for x in (expert, base, negative, center))
    guidance = open_mask("steer", gamma, eta)
    got = steer_scores(expert, base, negative, guidance, center)
    torch.testing.assert_close(got.double(), e + gamma * (e - b) - eta * (n - c), atol=1e-3, rtol=0)
    bare = steer_scores(expert, base, negative, guidance)
    torch.testing.assert_close(
        bare.double(), e + gamma * (e - b) - eta * (n - e), atol=1e-3, rtol=0
    )


@given(expert=rows)
@settings(max_examples=30, deadline=None)
def test_without_weights_it_is_the_expert_exactly(expert: Tensor) -> None:
    for rule in ("steer", "paper", "contrastive"):
        got = steer_scores(expert, None, None, open_mask(rule, 0, 0))
        assert torch.equal(got, expert.log_softmax(-1))


@given(expert=rows, gamma=weights)
@settings(max_examples=30, deadline=None)
def test_without_negatives_the_eta_term_is_left_out(expert: Tensor, gamma: float) -> None:
    base = expert.flip(-1)
    for rule in ("steer", "paper"):
        with_eta = steer_scores(expert, base, None, open_mask(rule, gamma, 0.7))
        assert torch.equal(with_eta, steer_scores(expert, base, None, open_mask(rule, gamma, 0)))


def test_a_base_that_is_needed_must_be_there() -> None:
    with pytest.raises(ValueError, match="base is missing"):
        steer_scores(torch.zeros(1, 4), None, None, Guidance(gamma=0.2))


@settings(max_examples=200, deadline=None)
@given(
    streams=st.lists(rows, min_size=4, max_size=4),
    banned=st.sets(st.integers(0, 8), max_size=5),
    infinite=st.booleans(),
    only_in_expert=st.booleans(),
    guidance=st.builds(
        Guidance,
        rule=st.sampled_from(["steer", "paper", "contrastive"]),
        gamma=st.floats(-10, 10),
        eta=weights,
        alpha=st.floats(0, 1),
        nucleus=st.sampled_from([None, 0.3, 0.9, 1.0]),
    ),
)
def test_masked_and_banned_tokens_score_the_smallest_finite_number(
    streams: list[Tensor],
    banned: set[int],
    infinite: bool,
    only_in_expert: bool,
    guidance: Guidance,
) -> None:
    ids = sorted(banned)
    streams = [x.clone() for x in streams]
    for stream in streams[:1] if only_in_expert else streams:
        stream[:, ids] = -math.inf if infinite else MIN
    expert, base, negative, center = streams
    scores = steer_scores(expert, base, negative, guidance, center)
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    assert (scores[:, ids] == MIN).all()
    e = expert.log_softmax(-1).clamp(min=MIN / 64)
    keep = plausible(e, guidance.alpha, guidance.mass)
    assert torch.equal(scores > MIN / 2, keep)
    assert keep.any(dim=-1).all()


def test_alpha_keeps_tokens_near_the_best() -> None:
    p = torch.tensor([[0.5, 0.25, 0.2, 0.04, 0.01]])
    scores = steer_scores(p.log(), None, None, Guidance(eta=0, alpha=0.1, nucleus=1))
    assert (scores > MIN).tolist() == [[True, True, True, False, False]]


@pytest.mark.parametrize(("mass", "kept"), [(0.5, 1), (0.51, 2), (0.76, 3), (0.96, 4), (1.0, 5)])
def test_nucleus_keeps_the_token_that_crosses_the_mass(mass: float, kept: int) -> None:
    p = torch.tensor([[0.04, 0.25, 0.5, 0.01, 0.2]])
    scores = steer_scores(p.log(), None, None, Guidance(eta=0, nucleus=mass))
    order = [2, 1, 4, 0, 3]
    assert set(np.flatnonzero((scores > MIN)[0])) == set(order[:kept])


def test_ties_at_the_edge_keep_the_lower_id() -> None:
    for size in (4, 40, 4000):
        p = torch.full((2, size), 1 / size)
        keep = nucleus(p, 0.5)
        assert keep[:, : size // 2].all()
        assert keep.sum(dim=-1).tolist() == [size // 2] * 2
    assert nucleus(torch.tensor([[0.25, 0.25, 0.25, 0.25]]), 0.4).tolist() == [
        [True, True, False, False]
    ]


@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("size", [63, 64, 65, 1025, 20_000])
def test_a_nucleus_of_any_size_is_the_sorted_ones(size: int, spread: float) -> None:
    """Few tokens are looked at first; where they do not hold the mass, more are."""
    torch.manual_seed(size)
    p = (torch.randn(3, size) * torch.tensor([[0.0], [spread], [10.0]])).double().softmax(-1)
    found = nucleus(p, 0.9)
    for row, kept in zip(p, found, strict=True):
        order = row.sort(descending=True, stable=True)
        count = int((order.values.cumsum(0) - order.values < 0.9).sum())
        assert torch.equal(kept.nonzero()[:, 0], order.indices[:count].sort().values)


def test_both_masks_must_be_passed_and_each_sees_the_whole_expert() -> None:
    p = torch.tensor([[0.4, 0.3, 0.2, 0.1]])
    scores = steer_scores(p.log(), None, None, Guidance(eta=0, alpha=0.3, nucleus=0.65))
    assert (scores > MIN).tolist() == [[True, True, False, False]]
    scores = steer_scores(p.log(), None, None, Guidance(eta=0, alpha=0.6, nucleus=0.95))
    assert (scores > MIN).tolist() == [[True, True, False, False]]


def test_the_mask_is_decided_before_steering() -> None:
    """The negatives push token 0 down; it still counts for the mask, and no token enters."""
    e = torch.tensor([[0.9, 0.06, 0.04]]).log()
    n = torch.tensor([[0.98, 0.01, 0.01]]).log()
    scores = steer_scores(e, None, n, Guidance(eta=1.0, nucleus=0.95))
    assert (scores > MIN).tolist() == [[True, True, False]]


def test_half_precision_logits_are_combined_in_float32() -> None:
    torch.manual_seed(0)
    e, b = torch.randn(2, 50, dtype=torch.bfloat16), torch.randn(2, 50, dtype=torch.bfloat16)
    guidance = open_mask("steer", 0.5, 0)
    assert torch.equal(
        steer_scores(e, b, None, guidance), steer_scores(e.float(), b.float(), None, guidance)
    )
