"""Documents run apart: the same tokens as one plain forward with their mask and positions."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from factory.guidance import Guidance, Sampling
from workers.decoding import DocumentCache, ModelPair, Request, SteerDecoder

from . import reference
from .conftest import BOS, VOCAB
from .test_decoder import assert_same, load_reference

Pairs = Callable[[str, str], ModelPair]
Folders = Callable[[str], Path]
SAMPLING = Sampling(max_new_tokens=8)
GUIDED = Guidance(gamma=0.2, eta=0.5)
tokens = st.integers(3, VOCAB - 1)
documents = st.lists(tokens, min_size=1, max_size=9).map(tuple)
lists = st.lists(documents, min_size=1, max_size=4)


def listed(documents_: list[tuple[int, ...]], prompt: tuple[int, ...], bos: bool) -> tuple:
    """(ids, spans) of a context: bos belongs to the first document."""
    first, *others = documents_
    pieces = [(BOS, *first) if bos else first, *others]
    return (*(i for piece in pieces for i in piece), *prompt), tuple(map(len, pieces))


@st.composite
def requests(draw: st.DrawFn) -> Request:
    prompt, bos = draw(documents), draw(st.booleans())
    negative, spans = listed(draw(lists), prompt, bos)
    center, middle = listed(draw(lists), prompt, bos) if draw(st.booleans()) else ((), ())
    seed = draw(st.integers(0, 2**53 - 1))
    return Request(prompt, negative, seed, center, negative_spans=spans, center_spans=middle)


def plain(model: PreTrainedModel, ids: list[int], spans: tuple[int, ...]) -> torch.Tensor:
    """Logits after a context in one forward: a document does not see the others, all stand at
    the same positions, and what follows comes after the longest."""
    head = int(ids[0] == BOS)
    owner, positions = [-1] * head, list(range(head))
    for number, span in enumerate(spans):
        own = span - head if number == 0 else span
        owner += [number] * own
        positions += range(head, head + own)
    rest = len(ids) - len(owner)
    start = max(positions) + 1
    owner += [len(spans)] * rest
    positions += range(start, start + rest)
    seen = torch.tensor(
        [
            [
                k <= q and (owner[k] in (-1, owner[q]) or owner[q] == len(spans))
                for k in range(len(ids))
            ]
            for q in range(len(ids))
        ]
    )
    mask = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
    with torch.no_grad():
        out = model(
            torch.tensor([ids]),
            attention_mask=mask[None, None],
            position_ids=torch.tensor([positions]),
        )
    return out.logits[0, -1]


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[Request]], None]:
    """The reference with the mask and positions of documents apart, for the contexts of these."""

    def use(asked: list[Request]) -> None:
        spans = {
            tuple(ids): lengths
            for r in asked
            for ids, lengths in (
                (r.negative_ids, r.negative_spans),
                (r.center_ids, r.center_spans),
            )
            if ids
        }

        def log_probs(model: PreTrainedModel, ids: list[int], banned: tuple[int, ...]) -> object:
            known = [c for c in spans if tuple(ids[: len(c)]) == c]
            if not known:
                return whole(model, ids, banned)
            context = max(known, key=len)
            return reference.log_probs_of(plain(model, list(ids), spans[context]), banned)

        monkeypatch.setattr(reference, "log_probs", log_probs)

    whole = reference.log_probs
    return use


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@settings(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(asked=st.lists(requests(), min_size=1, max_size=4), slots=st.integers(1, 4))
def test_tokens_are_those_of_one_forward_with_this_mask_and_these_positions(
    family: str,
    kind: str,
    asked: list[Request],
    slots: int,
    pairs: Pairs,
    folders: Folders,
    apart: Callable[[list[Request]], None],
) -> None:
    apart(asked)
    cache = DocumentCache()
    decoder = SteerDecoder(
        pairs(family, kind), GUIDED, SAMPLING, slots, trace=True, documents=cache
    )
    models = load_reference(folders(family), kind)
    for completion in decoder.run(asked):
        assert_same(completion, asked[completion.index], models, decoder)


LISTS = [((9, 8, 7), (6, 5)), ((6, 5), (9, 8, 7)), ((3, 4, 5, 6), (6, 5), (9, 8, 7))]


def asked_for(rows: list[tuple[tuple[int, ...], ...]]) -> list[Request]:
    contexts = [listed(list(row), (11, 12), bos=True) for row in rows]
    return [
        Request((BOS, 11, 12), ids, seed, negative_spans=spans)
        for seed, (ids, spans) in enumerate(contexts)
    ]


def tokens_of(decoder: SteerDecoder, asked: list[Request]) -> dict[int, tuple[int, ...]]:
    return {c.index: c.token_ids for c in decoder.run(asked)}


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_document_is_run_once_wherever_it_stands(kind: str, folders: Folders) -> None:
    """Counted in the tokens that the expert was given before a row's own."""
    pair = ModelPair.load(folders("llama") / "base", folders("llama") / kind)
    given: list[list[int]] = []
    pair.expert.register_forward_pre_hook(
        lambda _m, _a, k: given.extend(k["input_ids"].tolist()), with_kwargs=True
    )
    cache = DocumentCache()
    decoder = SteerDecoder(pair, Guidance(eta=0.5), SAMPLING, slots=2, documents=cache)
    assert decoder.kv == "concatenated"
    first = tokens_of(decoder, asked_for(LISTS * 2))
    texts = [tuple(token for token in ids if token) for ids in given if len(ids) > 1]
    for document in {document for row in LISTS for document in row}:
        assert texts.count((BOS, *document)) == 1
    assert texts.count((11, 12)) >= len(LISTS)  # what sees them, once for each context
    assert len(cache) == 1 + 3  # bos, and the documents
    given.clear()
    assert tokens_of(decoder, asked_for(LISTS * 2)) == first
    assert not any(9 in ids and 8 in ids for ids in given)


def test_what_is_kept_stays_within_the_budget_and_the_oldest_goes(pairs: Pairs) -> None:
    pair = pairs("llama", "lora")
    random = torch.Generator().manual_seed(0)
    pool = [tuple(torch.randint(3, VOCAB, (5,), generator=random).tolist()) for _ in range(30)]
    asked = asked_for([(pool[i], pool[i + 1]) for i in range(29)])

    def run(budget: int) -> tuple[dict[int, tuple[int, ...]], DocumentCache]:
        cache = DocumentCache(budget)
        decoder = SteerDecoder(pair, GUIDED, SAMPLING, slots=3, documents=cache)
        return tokens_of(decoder, asked), cache

    all_, roomy = run(2**20)
    token = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, size, bytes
    assert (len(roomy), roomy.bytes) == (31, (1 + 30 * 5) * token)
    some, tight = run(4 * 5 * token)
    assert tight.bytes <= 4 * 5 * token
    assert len(tight) == 4
    assert tight.get((BOS, *pool[29])) is not None
    assert tight.get((BOS, *pool[0])) is None
    none, empty = run(0)
    assert (len(empty), empty.bytes) == (0, 0)
    assert all_ == some == none
    roomy.clear()
    assert (len(roomy), roomy.bytes) == (0, 0)


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3"])
def test_models_with_sliding_windows_run_contexts_joint(family: str, pairs: Pairs) -> None:
    pair, cache = pairs(family, "lora"), DocumentCache()
    apart = SteerDecoder(pair, GUIDED, SAMPLING, slots=3, documents=cache)
    joint = SteerDecoder(pair, GUIDED, SAMPLING, slots=3)
    asked = asked_for(LISTS)
    assert (apart.kv, joint.kv, len(cache)) == ("joint", "joint", 0)
    assert tokens_of(apart, asked) == tokens_of(joint, asked)
    assert len(cache) == 0


def test_a_single_document_is_run_as_ever(pairs: Pairs) -> None:
    cache = DocumentCache()
    asked = asked_for([((9, 8, 7),), ((6, 5),)])
    apart = SteerDecoder(pairs("llama", "lora"), GUIDED, SAMPLING, documents=cache)
    joint = SteerDecoder(pairs("llama", "lora"), GUIDED, SAMPLING)
    assert tokens_of(apart, asked) == tokens_of(joint, asked)
    assert len(cache) == 0
    several = asked_for(LISTS)
    assert tokens_of(apart, several) != tokens_of(joint, several)


def test_scores_can_be_asked_for_with_documents_apart(pairs: Pairs) -> None:
    decoder = SteerDecoder(
        pairs("gpt2", "lora"), GUIDED, SAMPLING, trace=True, documents=DocumentCache()
    )
    asked = asked_for(LISTS)
    for completion in decoder.run(asked):
        trace, ids = completion.trace, completion.token_ids
        assert trace is not None
        among = decoder.along(asked[completion.index], ids)
        scores = [float(step.scores[0, token]) for step, token in zip(among, ids, strict=False)]
        assert scores == pytest.approx(trace.scores.tolist(), abs=1e-3)
