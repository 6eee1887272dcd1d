"""The rules that steer away from texts themselves: avoidance and correlated sampling."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from factory.errors import PromptError
from factory.guidance import Guidance, Rule, Sampling
from workers.decoding import ModelPair, Request, SteerDecoder
from workers.streams.documents import Context
from workers.streams.likeness import Likeness

from .test_decoder import assert_same, load_reference, tokens

Pairs = Callable[[str, str], ModelPair]
SAMPLING = Sampling(max_new_tokens=10)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Documents that begin with the prompt, as the factory lays them out; or none."""
    prompt = draw(st.lists(tokens, min_size=1, max_size=12).map(tuple))
    texts = draw(st.lists(st.lists(tokens, min_size=1, max_size=8).map(tuple), max_size=3))
    documents = [(*prompt, *text) for text in texts]
    negative = (*(i for document in documents for i in document), *prompt) if texts else ()
    seed = draw(st.integers(0, 2**53 - 1))
    spans = tuple(map(len, documents))
    return Request(prompt, negative, seed=seed, negative_spans=spans)


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("rule", ["avoidance", "correlated"])
@settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    wanted=st.lists(requests(), min_size=1, max_size=5),
    gamma=st.sampled_from([0.0, 0.4]),
    eta=st.sampled_from([0.5, 2.0]),
    slots=st.integers(1, 4),
)
def test_tokens_are_the_references(
    rule: Rule,
    kind: str,
    wanted: list[Request],
    gamma: float,
    eta: float,
    slots: int,
    pairs: Pairs,
    folders: Callable[[str], Path],
) -> None:
    guidance = Guidance(rule=rule, gamma=gamma, eta=eta, nucleus=0.98)
    decoder = SteerDecoder(pairs("llama", kind), guidance, SAMPLING, slots, trace=True)
    for completion in decoder.run(wanted):
        models = load_reference(folders("llama"), kind)
        assert_same(completion, wanted[completion.index], models, decoder)


@pytest.mark.parametrize("rule", ["avoidance", "correlated"])
def test_a_sample_is_followed_along_its_own_tokens(rule: Rule, pairs: Pairs) -> None:
    """Also past the end of the sample that it is contrasted with."""
    decoder = SteerDecoder(
        pairs("llama", "lora"), Guidance(rule=rule, eta=1), SAMPLING, slots=1, trace=True
    )
    request = Request((1, 5), (1, 5, 9, 8, 1, 5), seed=3, negative_spans=(4,))
    (completion,) = decoder.run([request])
    trace, ids = completion.trace, completion.token_ids
    assert trace is not None
    assert trace.negative is not None
    assert len(ids) > 3
    among = [*decoder.along(request, ids)]
    for name in ("scores", "expert", "negative"):
        rows = [getattr(step, name)[0] for step in among]
        along = [float(row[token]) for row, token in zip(rows, ids, strict=False)]
        assert along == pytest.approx(getattr(trace, name).tolist(), abs=1e-4)
    if rule == "correlated":
        assert trace.negative[3:].tolist() == trace.expert[3:].tolist()


def test_likeness_by_hand() -> None:
    """Two documents, in fourths. Four tokens in common are a copy, and more are no more; the end
    of one document and the beginning of the next are no run; 2 ends a text."""
    rows = Likeness(slots=2, vocab=8, ends={2}, device=torch.device("cpu"))
    first, second = (7, 6, 5, 4, 4, 2), (5, 3, 2)
    rows.open([(1, "negative", Context((*first, *second, 7), (6, 3)))])

    def fourths() -> list[float]:
        return [4 * x for x in rows.logits["negative"][1].tolist()]

    assert fourths() == [0, 0, 0, 1, 1, 1, 1, 1]
    rows.step({1: 7})
    assert fourths() == [0, 0, 0, 1, 1, 1, 2, 1]
    rows.step({1: 6})
    rows.step({1: 5})
    assert fourths() == [0, 0, 0, 2, 4, 1, 1, 1]
    rows.step({1: 4})
    assert fourths() == [0, 0, 0, 1, 4, 1, 1, 1]
    rows.step({1: 2})
    assert fourths() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert rows.logits["negative"][0].tolist() == [0] * 8


def test_another_sample_must_begin_with_the_prompt(pairs: Pairs) -> None:
    decoder = SteerDecoder(pairs("llama", "lora"), Guidance(rule="correlated"), SAMPLING)
    for spans in ((), (2,)):
        with pytest.raises(PromptError, match="begin with one"):
            list(decoder.run([Request((1, 5), (1, 5, 9, 1, 5), negative_spans=spans)]))
    with pytest.raises(PromptError, match="begin with one"):
        list(decoder.run([Request((1, 5), (1, 6, 9, 1, 5), negative_spans=(3,))]))
