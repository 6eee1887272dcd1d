"""The verdict head: its cap, its mask, and that it touches nothing else."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid

from factory.guidance import Guidance, Sampling
from workers.decoding import ModelPair, Request, SteerDecoder, Trace
from workers.decoding.guidance import log_probs, plausible
from workers.levers.verdict import (
    HeadTerm,
    VerdictHead,
    capped_weight,
    divergence,
    read_hidden,
)
from workers.streams import MASKED

from .conftest import VOCAB
from .reference import Reference, plain_model

WIDTH, RANK = 32, 3
Pairs = Callable[[str, str], ModelPair]
SAMPLING = Sampling(max_new_tokens=12)
NO_ETA = Guidance(eta=0)


def random_head(seed: int, scale: float = 1.0) -> VerdictHead:
    torch.manual_seed(seed)
    return VerdictHead(
        direction=torch.randn(WIDTH) * scale,
        bias=torch.randn(VOCAB) * scale,
        hidden=torch.randn(RANK, WIDTH) * scale,
        token=torch.randn(RANK, WIDTH) * scale,
    )


def requests(count: int, **more: object) -> list[Request]:
    return [Request(prompt_ids=[1, 5, 9 + i % 3], seed=i, **more) for i in range(count)]


def run(pair: ModelPair, asked: list[Request], head: HeadTerm | None, **more: object) -> list:
    terms = [head] if head else []
    decoder = SteerDecoder(pair, NO_ETA, SAMPLING, 4, trace=True, terms=terms, **more)
    return sorted(decoder.run(asked), key=lambda completion: completion.index)


@given(
    seed=st.integers(0, 2**20),
    weight=st.floats(0, 50),
    cap=st.floats(1e-3, 3),
    mass=st.sampled_from([0.3, 0.9, 1.0]),
    spread=st.floats(0.1, 8),
)
def test_the_cap_holds_and_no_more_is_taken_than_it_asks(
    seed: int, weight: float, cap: float, mass: float, spread: float
) -> None:
    torch.manual_seed(seed)
    expert = log_probs(torch.randn(5, 40) * spread)
    keep = plausible(expert, 0.0, mass)
    f = logsigmoid(torch.randn(5, 40) * 4)
    scale = capped_weight(expert, f, keep, weight, cap)
    log_p = expert.masked_fill(~keep, MASKED).log_softmax(dim=-1)
    assert (scale >= 0).all()
    assert (scale <= weight).all()
    moved = divergence(log_p, f, keep, scale)
    assert (moved <= cap + 1e-4).all()
    lowered = scale < weight * (1 - 1e-3)
    assert (moved[lowered] >= cap - 0.05 * max(cap, 1) - 1e-3).all()


def test_divergence_is_the_textbook_one() -> None:
    torch.manual_seed(0)
    log_p = torch.randn(3, 9, dtype=torch.float64).log_softmax(-1)
    f, scale = torch.randn(3, 9, dtype=torch.float64), torch.tensor([0.0, 1.0, 2.5]).double()
    keep = torch.ones(3, 9, dtype=torch.bool)
    p = log_p.exp().numpy()
    q = p * np.exp(scale[:, None].numpy() * f.numpy())
    q /= q.sum(axis=1, keepdims=True)
    expected = (q * np.log(q / p)).sum(axis=1)
    assert np.allclose(divergence(log_p, f, keep, scale).numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_without_weight_it_is_the_expert_exactly(pairs: Pairs, kind: str) -> None:
    pair = pairs("llama", kind)
    plain = run(pair, requests(9), None)
    still = run(pair, requests(9), HeadTerm(random_head(0), 0.0, 0.3))
    capped = run(pair, requests(9), HeadTerm(random_head(0), 1e-30, 0.3))
    for one, two, three in zip(plain, still, capped, strict=True):
        assert one.token_ids == two.token_ids == three.token_ids
        assert np.array_equal(one.trace.scores, two.trace.scores)
        assert np.allclose(one.trace.scores, three.trace.scores)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_rows_that_want_no_head_are_as_without_one(pairs: Pairs, kind: str) -> None:
    """Bit for bit, in the same places and beside rows that it steers."""
    pair = pairs("llama", kind)
    plain = run(pair, requests(12), None)
    asked = [replace(request, learned=i % 3 > 0) for i, request in enumerate(requests(12))]
    mixed = run(pair, asked, HeadTerm(random_head(1), 20.0, 5.0))
    assert any(a.token_ids != b.token_ids for a, b in zip(plain, mixed, strict=True))
    alone = run(
        pair,
        [replace(request, learned=False) for request in requests(12)],
        HeadTerm(random_head(1), 20.0, 5.0),
    )
    for i, (one, two) in enumerate(zip(plain, alone, strict=True)):
        assert one.token_ids == two.token_ids
        assert np.array_equal(one.trace.expert, two.trace.expert)
        assert two.trace.head is None
        if i % 3 == 0:
            assert mixed[i].token_ids == one.token_ids
            assert mixed[i].trace.head is None


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_term_is_that_of_the_plain_models_own_hidden_states(
    pairs: Pairs, folders: Callable[[str], Path], family: str, kind: str
) -> None:
    """ρ log σ(a·h + b_v + (Uh)·(Te_v)), with h and e_v read off the expert by other means."""
    pair, head = pairs(family, kind), random_head(2, 0.3)
    reference = Reference.load(folders(family), kind).expert
    made = run(pair, requests(3), HeadTerm(head, 0.7, 1e9))
    for request, completion in zip(requests(3), made, strict=True):
        ids = torch.tensor([[*request.prompt_ids, *completion.token_ids]])
        seen: list[torch.Tensor] = []
        layer = reference.get_output_embeddings()
        hook = layer.register_forward_pre_hook(lambda _, x, seen=seen: seen.append(x[0]))
        with torch.no_grad():
            reference(ids)
        hook.remove()
        h = seen[0][0, len(request.prompt_ids) - 1 : -1]
        e = layer.weight[list(completion.token_ids)].detach()
        own = h @ head.direction + head.bias[list(completion.token_ids)]
        z = own + ((h @ head.hidden.T) * (e @ head.token.T)).sum(-1)
        assert np.allclose(completion.trace.head, 0.7 * logsigmoid(z).numpy(), atol=2e-3)
        score = completion.trace.expert + completion.trace.head
        assert np.allclose(completion.trace.scores, score, atol=1e-4)


def test_the_mask_is_the_experts(pairs: Pairs) -> None:
    """However strong the head, only tokens that the expert finds plausible are drawn."""
    pair = pairs("llama", "lora")
    guidance = Guidance(eta=0, nucleus=0.6)
    strong = HeadTerm(random_head(3, 5.0), 100.0, 100.0)
    decoder = SteerDecoder(pair, guidance, SAMPLING, 4, trace=True, terms=[strong])
    for completion in decoder.run(requests(8)):
        ids = [1, 5, 9 + completion.index % 3]
        for position, token in enumerate(completion.token_ids):
            state = read_hidden(pair, ids, [(*completion.token_ids[:position], token)])
            expert = log_probs(_logits(pair, state.hidden[position : position + 1]))
            assert plausible(expert, 0.0, 0.6 + 1e-3)[0, token]


def _logits(pair: ModelPair, hidden: torch.Tensor) -> torch.Tensor:
    pair.rows.split(1, 1)
    with torch.inference_mode():
        logits = pair.expert.get_output_embeddings()(hidden[None])[0]
        return logits.index_fill(-1, torch.tensor(pair.banned_ids), MASKED)


def test_a_head_of_another_model_is_refused(pairs: Pairs) -> None:
    head = random_head(0)
    small = replace(head, direction=head.direction[:-1])
    with pytest.raises(ValueError, match="another size"):
        SteerDecoder(pairs("llama", "lora"), NO_ETA, SAMPLING, terms=[HeadTerm(small, 1.0, 0.3)])
    with pytest.raises(ValueError, match="cap above 0"):
        HeadTerm(head, 1.0, 0.0)


def test_hidden_states_are_read_in_the_texts_order(
    pairs: Pairs, folders: Callable[[str], Path]
) -> None:
    pair = pairs("llama", "full")
    texts = [(7, 8, 9, 10), (3,), (), (11, 12)]
    read = read_hidden(pair, (1, 5), texts)
    assert read.tokens.tolist() == [7, 8, 9, 10, 3, 11, 12]
    assert read.texts.tolist() == [0, 0, 0, 0, 1, 3, 3]
    plain = plain_model(folders("llama") / "full")
    with torch.no_grad():
        for text, at in ((texts[0], 0), (texts[1], 4), (texts[3], 5)):
            ids = torch.tensor([[1, 5, *text]])
            states = plain(ids, output_hidden_states=True).hidden_states[-1][0]
            assert torch.allclose(read.hidden[at : at + len(text)], states[1:-1], atol=1e-4)


def test_a_trace_with_a_head_survives_packing(pairs: Pairs) -> None:
    made = run(pairs("llama", "lora"), requests(1), HeadTerm(random_head(4), 1.0, 0.3))[0]
    again = Trace.from_bytes(made.trace.to_bytes())
    assert np.array_equal(again.head, made.trace.head)
    assert np.array_equal(again.survivors, made.trace.survivors)
    without = run(pairs("llama", "lora"), requests(1), None)[0].trace
    assert Trace.from_bytes(without.to_bytes()).head is None
