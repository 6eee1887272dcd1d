"""The engine against the reference: the same tokens, whatever the settings and neighbours."""

import gc
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from factory.errors import NumericalError, PromptError
from factory.guidance import Guidance, Sampling
from workers.decoding import Completion, ModelPair, Request, SteerDecoder

from . import reference
from .conftest import BOS, EOS, PAD, VOCAB

TOLERANCE = 1e-4
Pairs = Callable[[str, str], ModelPair]
Folders = Callable[[str], Path]

load_reference = cache(reference.Reference.load)
tokens = st.integers(3, VOCAB - 1)
contexts = st.lists(tokens, min_size=1, max_size=40).map(tuple)
guidances = st.builds(
    Guidance,
    rule=st.sampled_from(["steer", "paper", "contrastive"]),
    gamma=st.sampled_from([0.0, 0.2, 1.0, -0.5]),
    eta=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    alpha=st.sampled_from([0.0, 0.05, 0.3]),
    nucleus=st.sampled_from([None, 0.5, 0.95, 1.0]),
)
samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.7, 1.0, 1.6]),
    top_k=st.sampled_from([0, 0, 3, 10]),
    top_p=st.sampled_from([1.0, 1.0, 0.8]),
    min_p=st.sampled_from([0.0, 0.0, 0.1]),
    max_new_tokens=st.integers(1, 12),
)


@st.composite
def requests(draw: st.DrawFn) -> Request:
    negative = draw(st.one_of(st.just(()), contexts))
    center = draw(st.one_of(st.just(()), contexts)) if negative else ()
    seed = draw(st.integers(0, 2**53 - 1))
    return Request(draw(contexts), negative, seed=seed, center_ids=center)


def assert_same(
    completion: Completion,
    request: Request,
    models: reference.Reference,
    decoder: SteerDecoder,
    tolerance: float = TOLERANCE,
) -> None:
    """The reference's tokens, or a first difference within float32 of a tie or a mask's edge."""
    pair = decoder._pair
    settings_ = (decoder._guidance, decoder._sampling)
    ids, reason, steps = reference.decode(
        models, request, *settings_, pair.eos_ids, pair.banned_ids
    )
    if completion.token_ids == tuple(ids):
        assert completion.finish_reason == reason
        check_trace(completion, steps)
        return
    ours = [*completion.token_ids, EOS]
    at = next(i for i, (a, b) in enumerate(zip(ours, [*ids, EOS], strict=False)) if a != b)
    gap = abs(steps[at].noisy.max() - steps[at].noisy[ours[at]])
    assert min(gap, steps[at].edge) < tolerance, f"token {at}: {ours[at]} for {steps[at].token}"


def check_trace(completion: Completion, steps: Sequence[reference.Step]) -> None:
    trace = completion.trace
    assert trace is not None
    assert trace.tokens.tolist() == list(completion.token_ids)
    for i, step in enumerate(steps[: len(completion.token_ids)]):
        for name in ("expert", "base", "negative", "center", "adapters"):
            values = getattr(trace, name)
            assert (values is None) == (name not in step.parts)
            if values is not None:
                assert values[i] == pytest.approx(step.parts[name], abs=1e-3)
        assert trace.scores[i] == pytest.approx(step.scores[step.token], abs=1e-3)
        if step.edge > TOLERANCE:
            assert trace.survivors[i] == step.survivors


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
@settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    wanted=st.lists(requests(), min_size=1, max_size=5),
    guidance=guidances,
    sampling=samplings,
    slots=st.integers(1, 5),
)
def test_tokens_are_the_references(
    family: str,
    kind: str,
    wanted: list[Request],
    guidance: Guidance,
    sampling: Sampling,
    slots: int,
    pairs: Pairs,
    folders: Folders,
) -> None:
    decoder = SteerDecoder(pairs(family, kind), guidance, sampling, slots, trace=True)
    models = load_reference(folders(family), kind)
    completions = sorted(decoder.run(wanted), key=lambda c: c.index)
    assert [c.index for c in completions] == list(range(len(wanted)))
    for completion, request in zip(completions, wanted, strict=True):
        assert_same(completion, request, models, decoder)


def mixed_requests(count: int) -> list[Request]:
    """Contexts of many lengths; some without negatives, some with a centre."""
    random = np.random.default_rng(5)

    def ids(low: int, high: int) -> tuple[int, ...]:
        return tuple(random.integers(3, VOCAB, random.integers(low, high)).tolist())

    return [
        Request(
            ids(1, 12),
            ids(5, 50) if i % 4 else (),
            seed=1000 + i,
            center_ids=ids(5, 50) if i % 4 == 2 else (),
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", ["qwen2", "mistral", "gemma2", "gemma3"])
def test_other_families(family: str, kind: str, pairs: Pairs, folders: Folders) -> None:
    guidance = Guidance(gamma=0.3, eta=0.5)
    decoder = SteerDecoder(
        pairs(family, kind), guidance, Sampling(max_new_tokens=12), slots=4, trace=True
    )
    wanted = mixed_requests(6)
    models = load_reference(folders(family), kind)
    for completion in decoder.run(wanted):
        assert_same(completion, wanted[completion.index], models, decoder)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_samples_do_not_depend_on_neighbours_slots_or_order(kind: str, pairs: Pairs) -> None:
    wanted = mixed_requests(10)
    guidance, sampling = Guidance(gamma=0.2, eta=0.5), Sampling(max_new_tokens=20)

    def run(slots: int, order: Sequence[int]) -> dict[int, tuple[int, ...]]:
        decoder = SteerDecoder(pairs("llama", kind), guidance, sampling, slots)
        return {order[c.index]: c.token_ids for c in decoder.run(wanted[i] for i in order)}

    alone = run(1, range(10))
    assert len({len(ids) for ids in alone.values()}) > 2
    assert run(4, range(10)) == alone
    assert run(10, range(10)) == alone
    assert run(3, [9, 3, 5, 0, 1, 8, 2, 7, 4, 6]) == alone


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", ["gpt2", "gemma3"])
def test_shared_contexts_are_run_once_and_change_nothing(
    family: str, kind: str, folders: Folders
) -> None:
    """Groups of 3 with one negative context; some rows share it, some have their own."""
    pair = ModelPair.load(folders(family) / "base", folders(family) / kind)
    mixed = mixed_requests(12)
    wanted = [
        Request((5, 6, 7), mixed[(1, 2, 5, 6)[i // 3]].negative_ids, seed=i, center_ids=center)
        if i != 7
        else mixed[7]
        for i, center in enumerate([(), (), (9, 8, 7)] * 4)
    ]
    prefilled: list[int] = []
    for model in {id(m): m for m in (pair.expert, pair.base)}.values():
        model.register_forward_pre_hook(
            lambda _m, _a, k: (
                prefilled.append(k["input_ids"].shape[0])
                if not isinstance(k["logits_to_keep"], int)
                else None
            ),
            with_kwargs=True,
        )
    guidance, sampling = Guidance(gamma=0.2, eta=0.5), Sampling(max_new_tokens=10)

    def run(slots: int) -> dict[int, tuple[int, ...]]:
        decoder = SteerDecoder(pair, guidance, sampling, slots)
        return {c.index: c.token_ids for c in decoder.run(wanted)}

    together = run(5)
    # expert and base prompts (5, 6, 7) and those of row 7; 4 negatives and that of row 7; centre
    contexts = 2 * 2 + 4 + 1 + 1
    assert contexts <= sum(prefilled) <= contexts + 2  # row 7's context may part a group
    for i, request in enumerate(wanted):
        (alone,) = SteerDecoder(pair, guidance, sampling, slots=1).run([request])
        assert alone.token_ids == together[i]


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_same_run_gives_the_same_bits(kind: str, pairs: Pairs) -> None:
    """With the same slots and requests every number of the trace is the same, to the bit."""
    wanted = mixed_requests(9)
    guidance, sampling = Guidance(gamma=0.2), Sampling(max_new_tokens=12)

    def run() -> list[tuple[int, bytes]]:
        decoder = SteerDecoder(pairs("gpt2", kind), guidance, sampling, slots=3, trace=True)
        return [(c.index, c.trace.to_bytes()) for c in decoder.run(wanted) if c.trace]

    assert run() == run()
    assert len(run()) == 9


def test_traces_are_made_on_request_only(pairs: Pairs) -> None:
    decoder = SteerDecoder(pairs("gpt2", "full"), Guidance(), Sampling(max_new_tokens=3))
    assert [c.trace for c in decoder.run(mixed_requests(2))] == [None, None]


def test_without_weights_it_is_the_expert(pairs: Pairs) -> None:
    wanted = mixed_requests(6)
    sampling = Sampling(max_new_tokens=15)
    off = Guidance(gamma=0, eta=0, nucleus=1)
    guided = list(SteerDecoder(pairs("llama", "full"), off, sampling, 6, trace=True).run(wanted))
    for completion in guided:
        trace = completion.trace
        assert trace is not None
        assert (trace.base, trace.negative, trace.center) == (None, None, None)
        assert trace.scores.tobytes() == trace.expert.tobytes()
        assert trace.unguided.tolist() == list(completion.token_ids)


def test_streams_of_weight_zero_never_run(folders: Folders) -> None:
    pair = ModelPair.load(folders("llama") / "base", folders("llama") / "full")
    calls: list[int] = []
    pair.base.register_forward_hook(lambda *_: calls.append(1))
    rows: list[int] = []
    pair.expert.register_forward_hook(lambda _m, _a, out: rows.append(out.logits.shape[0]))
    request = Request((5, 6), (7, 8, 9), center_ids=(4, 4))
    list(SteerDecoder(pair, Guidance(gamma=0, eta=0), Sampling(max_new_tokens=3)).run([request]))
    assert calls == []
    assert set(rows) == {1}


def test_requests_are_pulled_when_a_slot_frees(pairs: Pairs) -> None:
    pulled: list[int] = []

    def source() -> Iterator[Request]:
        for i, request in enumerate(mixed_requests(9)):
            pulled.append(i)
            yield request

    sampling = Sampling(max_new_tokens=25)
    decoder = SteerDecoder(pairs("llama", "lora"), Guidance(), sampling, slots=3)
    done = 0
    for _ in decoder.run(source()):
        # Every sample beside those done is in one of the three slots.
        done += 1
        assert len(pulled) <= 3 + done - 1
    assert done == len(pulled) == 9


def test_what_was_just_made_can_be_the_next_negative(pairs: Pairs) -> None:
    made: list[tuple[int, ...]] = []
    used: list[tuple[int, ...]] = []

    def source() -> Iterator[Request]:
        for seed in range(6):
            used.append(made[-1] if made else ())
            yield Request((5, 6, 7), (*used[-1], 5, 6, 7) if used[-1] else (), seed=seed)

    decoder = SteerDecoder(pairs("llama", "lora"), Guidance(), Sampling(max_new_tokens=6), slots=1)
    for completion in decoder.run(source()):
        made.append(completion.token_ids)
    assert used == [(), *made[:-1]]


def test_finish_reasons(pairs: Pairs) -> None:
    wanted = mixed_requests(12)
    decoder = SteerDecoder(pairs("llama", "full"), Guidance(), Sampling(max_new_tokens=20), 4)
    ends = list(decoder.run(wanted))
    assert {c.finish_reason for c in ends} == {"eos", "length"}
    for completion in ends:
        assert not {EOS, PAD, BOS} & set(completion.token_ids)
        assert (len(completion.token_ids) == 20) == (completion.finish_reason == "length")


def test_the_callers_rule_stops_a_row(pairs: Pairs) -> None:
    wanted = mixed_requests(8)
    sampling = Sampling(max_new_tokens=20)
    whole = {
        c.index: c for c in SteerDecoder(pairs("gpt2", "lora"), Guidance(), sampling).run(wanted)
    }
    decoder = SteerDecoder(
        pairs("gpt2", "lora"), Guidance(), sampling, should_stop=lambda ids: ids[-1] % 7 == 0
    )
    for completion in decoder.run(wanted):
        ids = whole[completion.index].token_ids
        cut = next((i + 1 for i, token in enumerate(ids) if token % 7 == 0), None)
        assert completion.token_ids == ids[:cut]
        assert (completion.finish_reason == "stop") == (cut is not None)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_not_finite_logits_end_one_row_only(kind: str, folders: Folders) -> None:
    """Token 60 has a poisoned embedding in both models: rows that see it get NaN logits."""
    pair = ModelPair.load(folders("llama") / "base", folders("llama") / kind)
    healthy = [Request((5, 6), (7, 8, 9, 10), seed=i) for i in range(12)]
    guidance, sampling = Guidance(gamma=0.2), Sampling(max_new_tokens=6)

    def run(wanted: list[Request]) -> dict[int, Completion]:
        return {c.index: c for c in SteerDecoder(pair, guidance, sampling, 3).run(wanted)}

    clean = run(healthy)
    poisoned = list(healthy)
    poisoned[1] = Request((5, 60), (7, 8, 9, 10), seed=1)
    poisoned[4] = Request((5, 6), (7, 60, 9, 10), seed=4)
    for model in {id(m): m for m in (pair.base, pair.expert)}.values():
        with torch.no_grad():
            model.get_input_embeddings().weight[60] = math.nan
    ends = run(poisoned)
    for i in (1, 4):
        assert ends[i].finish_reason == "error"
        assert isinstance(ends[i].error, NumericalError)
        assert f"request {i}" in str(ends[i].error)
        assert ends[i].token_ids == ()
    unseen = [i for i, c in clean.items() if 60 not in c.token_ids and i not in (1, 4)]
    assert len(unseen) > 5
    assert all(ends[i].token_ids == clean[i].token_ids for i in unseen)


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (Request(()), "prompt is empty"),
        (Request((5, VOCAB)), f"token id {VOCAB}"),
        (Request((5, -1)), "token id -1"),
        (Request((5,), (6, 400)), "negative context holds token id 400"),
        (Request((5,), (6,), center_ids=(99,)), "centre context holds token id 99"),
        (Request((5,) * 90), "90 tokens and max_new_tokens is 10"),
        (Request((5,), (6,) * 87), "negative context has 87 tokens"),
        (Request((5,), (), center_ids=(6,)), "needs a negative context"),
    ],
)
def test_prompts_that_cannot_be_decoded_from(request_: Request, says: str, pairs: Pairs) -> None:
    decoder = SteerDecoder(pairs("gpt2", "full"), Guidance(), Sampling(max_new_tokens=10))
    with pytest.raises(PromptError, match=says):
        list(decoder.run([request_]))


def test_a_context_may_fill_the_model(pairs: Pairs) -> None:
    decoder = SteerDecoder(pairs("gpt2", "full"), Guidance(), Sampling(max_new_tokens=10))
    (completion,) = decoder.run([Request((5,) * 86, (6,) * 86, seed=3)])
    assert completion.token_ids


def test_memory_does_not_grow_with_the_number_of_samples(pairs: Pairs) -> None:
    """Counted over 10,000 samples, each group of 8 with a negative context of its own: numbers
    held in tensors, and objects that Python tracks, the most of five times around 2,000 and of
    five towards the end. (What a single step holds differs from step to step.)"""

    def source() -> Iterator[Request]:
        for seed in range(10_000):
            if seed % 8 == 0:
                negative = tuple(np.random.default_rng(seed).integers(3, VOCAB, 40).tolist())
            yield Request((5, 6, 7), (*negative, 5, 6, 7), seed=seed)

    decoder = SteerDecoder(
        pairs("llama", "lora"), Guidance(gamma=0.2), Sampling(max_new_tokens=3), 64, trace=True
    )
    numbers, objects, done = [], [], 0
    for completion in decoder.run(source()):
        done += 1
        if done in (1_900, 1_950, 2_000, 2_050, 2_100, 9_700, 9_750, 9_800, 9_850, 9_900):
            del completion
            gc.collect()
            held = gc.get_objects()
            numbers.append(sum(x.numel() for x in held if type(x) is torch.Tensor))
            objects.append(len(held))
            del held
    assert done == 10_000
    assert max(numbers[5:]) <= max(numbers[:5]) * 1.02, numbers
    assert max(objects[5:]) <= max(objects[:5]) * 1.02, objects


def test_settings_out_of_range(pairs: Pairs) -> None:
    with pytest.raises(ValueError, match="slots"):
        SteerDecoder(pairs("llama", "full"), Guidance(), Sampling(), slots=0)
    for seed in (-1, 2**53):
        with pytest.raises(ValueError, match="seed"):
            Request((1,), seed=seed)


def test_a_decoder_can_run_again_and_twice_at_once(pairs: Pairs) -> None:
    decoder = SteerDecoder(pairs("llama", "lora"), Guidance(), Sampling(max_new_tokens=8), slots=2)
    wanted = mixed_requests(5)
    first = sorted((c.index, c.token_ids) for c in decoder.run(wanted))
    both = itertools.zip_longest(decoder.run(wanted), decoder.run(wanted))
    interleaved = [(a, b) for a, b in both if a is not None and b is not None]
    assert sorted((a.index, a.token_ids) for a, _ in interleaved) == first
    assert sorted((b.index, b.token_ids) for _, b in interleaved) == first
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_sample_is_followed_along_its_own_tokens(family: str, kind: str, pairs: Pairs) -> None:
    """What each token was chosen among is what its trace says, whatever else was likelier."""
    guidance, sampling = Guidance(gamma=0.3, eta=0.5, nucleus=0.8), Sampling(max_new_tokens=8)
    decoder = SteerDecoder(pairs(family, kind), guidance, sampling, slots=1, trace=True)
    wanted = mixed_requests(4)
    for completion in decoder.run(wanted):
        trace, ids = completion.trace, completion.token_ids
        assert trace is not None
        among = list(decoder.along(wanted[completion.index], ids))[: len(ids)]
        assert [int(step.keep.sum()) for step in among] == trace.survivors.tolist()
        for name, column in (("scores", trace.scores), ("expert", trace.expert)):
            rows = [getattr(step, name)[0] for step in among]
            assert [float(row[i]) for row, i in zip(rows, ids, strict=True)] == pytest.approx(
                column.tolist(), abs=1e-4
            )


def test_rows_are_seen_as_they_grow(pairs: Pairs) -> None:
    """Each step adds a token to each row that goes on; a row that has ended is seen no more."""
    decoder = SteerDecoder(pairs("llama", "lora"), Guidance(), Sampling(max_new_tokens=8), slots=2)
    wanted = mixed_requests(5)
    whole = {c.index: c.token_ids for c in decoder.run(wanted)}
    before: dict[int, tuple[int, ...]] = {}
    for step in decoder.steps(wanted):
        ended = {completion.index for completion in step.finished}
        assert not ended & set(step.going)
        assert len(step.going) <= 2
        for index, tokens in step.going.items():
            assert tokens == whole[index][: len(before.get(index, ())) + 1]
        before = dict(step.going)
