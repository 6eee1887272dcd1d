"""Attention in compiled loops against attention written out, and against attention role by role."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from factory.guidance import Guidance
from workers.decoding import ModelPair
from workers.models.attention import Scoring
from workers.streams import compiled, lane, loops
from workers.streams.compiled import Compiled
from workers.streams.documents import Context
from workers.streams.kv import Role
from workers.streams.plan import Grain, Plan

from .test_decoder import mixed_requests
from .test_graphs import decode, shared_requests

Pairs = Callable[[str, str], ModelPair]


@dataclass(frozen=True)
class Shape:
    """What a layer's queries and keys look like, and how many rows, roles and steps there are."""

    size: int
    kv_heads: int
    group: int
    scoring: Scoring
    roles: int
    rows: int
    steps: int
    context: int


shapes = st.builds(
    Shape,
    size=st.sampled_from([1, 4, 8, 15, 16, 17, 20, 32, 64, 80, 128]),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    scoring=st.builds(
        Scoring,
        scale=st.sampled_from([0.1, 0.25, 1.0]),
        window=st.sampled_from([None, 1, 3, 40]),
        softcap=st.sampled_from([None, 2.0, 30.0]),
    ),
    roles=st.integers(1, 3),
    rows=st.integers(1, 6),
    steps=st.integers(1, 9),
    context=st.integers(1, 40),
)


class Run:
    """Rows of some roles that attend to random numbers, and all that each row has seen."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.roles = [Role(shape.rows, shape.steps, Grain(fused=True)) for _ in range(shape.roles)]
        self.kernels = Compiled(self.roles)
        self._seen: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._ids = itertools.count()  # no context is another one

    def open(self, slots: list[int], contexts: int) -> None:
        """Start a row per slot and role; they share so many contexts."""
        shape = self.shape
        for number, role in enumerate(self.roles):
            made: list[tuple[Context, tuple[Tensor, Tensor]]] = []
            for i in range(contexts):
                length = 1 + (shape.context + 5 * i) % 41
                context = Context(tuple(itertools.islice(self._ids, length)))
                keys, values = (
                    torch.randn(1, shape.kv_heads, len(context), shape.size) for _ in range(2)
                )
                role.add_context(context, {0: (keys, values)}, 0)
                made.append((context, (keys[0], values[0])))
            for slot in slots:
                self._seen[number, slot] = made[slot % contexts][1]
            role.open([(slot, made[slot % contexts][0]) for slot in slots])

    def step(self, change: Callable[[Tensor], None] = lambda query: None) -> tuple[Tensor, Tensor]:
        """One step of all rows: what the loops say, and what plain attention says."""
        shape = self.shape
        live = {i: role for i, role in enumerate(self.roles) if len(role)}
        self.kernels.clear()
        slots = [(i, slot) for i, role in live.items() for slot in role.standing().slots]
        plans = []
        for role in live.values():
            made, integers = role.step(dict.fromkeys(role.standing().slots, 3))
            plans.append(Plan(made, torch.from_numpy(integers)))
        heads, n = shape.kv_heads * shape.group, len(slots)
        wide = torch.randn(n, 1, (heads + 2 * shape.kv_heads) * shape.size)  # as one product gives
        parts = wide.split([m * shape.size for m in (heads, shape.kv_heads, shape.kv_heads)], -1)
        query, key, value = (x.view(n, 1, -1, shape.size).transpose(1, 2) for x in parts)
        change(query)
        arranged, contexts = self.kernels.arrange(live)
        attender = self.kernels.attender(arranged, torch.from_numpy(contexts), plans)
        ours = attender.attend(0, query, key, value, shape.scoring)
        theirs = [self._plain(row, *x) for row, *x in zip(slots, query, key, value, strict=True)]
        return ours, torch.stack(theirs)

    def _plain(self, row: tuple[int, int], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of one row to all that it has seen, in float64."""
        shape, scoring = self.shape, self.shape.scoring
        keys, values = (
            torch.cat([old, new], dim=1)
            for old, new in zip(self._seen[row], (key, value), strict=True)
        )
        self._seen[row] = keys, values
        window = scoring.window or keys.shape[1]
        k, v = (x[:, -window:].double().repeat_interleave(shape.group, 0) for x in (keys, values))
        scores = query.double() @ k.mT * scoring.scale
        if scoring.softcap is not None:
            scores = scoring.softcap * torch.tanh(scores / scoring.softcap)
        return (scores.softmax(-1) @ v).float()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads, each of which is given work, be it ever so little."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "PORTION", 1)
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@given(shapes, st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**31))
@settings(max_examples=60)
def test_the_loops_attend_to_all_that_a_row_sees(
    shape: Shape, contexts: int, count: int, seed: int
) -> None:
    torch.manual_seed(seed)
    run = Run(shape)
    run.open([*range(shape.rows)], contexts)
    for _ in range(shape.steps):
        with threads(count):
            ours, theirs = run.step()
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


WIDE = Shape(16, 2, 2, Scoring(0.25, None, None), roles=2, rows=4, steps=6, context=20)


def test_rows_that_end_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in buffers that begin as NaN: only what a row has written is read."""
    zeros = torch.Tensor.new_zeros
    monkeypatch.setattr(torch.Tensor, "new_zeros", lambda x, *to: zeros(x, *to).fill_(math.nan))
    torch.manual_seed(1)
    run = Run(WIDE)
    run.open([0, 1, 2, 3], 2)
    for closed in ({1}, {0, 2}, set[int]()):
        torch.testing.assert_close(*run.step(), rtol=1e-4, atol=2e-5)
        for role in run.roles:
            role.close(closed)
        torch.testing.assert_close(*run.step(), rtol=1e-4, atol=2e-5)
        run.open(sorted(closed), 1) if closed else None


def test_what_is_not_finite_is_not_hidden_and_stays_in_its_row() -> None:
    """A query of NaN, and one so large that its scores are infinite."""
    torch.manual_seed(2)
    run = Run(WIDE)
    run.open([0, 1, 2, 3], 2)

    def spoil(query: Tensor) -> None:
        query[1] = math.nan
        query[2] = 3e38

    ours, theirs = run.step(spoil)
    bad = [1, 2]
    assert ours[bad].isnan().flatten(1).all(1).tolist() == [True, True]
    good = [i for i in range(len(ours)) if i not in bad]
    torch.testing.assert_close(ours[good], theirs[good], rtol=1e-4, atol=2e-5)


def test_scores_far_apart_leave_one_key() -> None:
    """Beyond what exp can say, a weight is 0 for what it is worth."""
    torch.manual_seed(3)
    run = Run(replace(WIDE, scoring=Scoring(1e4, None, None)))
    run.open([0, 1, 2, 3], 2)
    torch.testing.assert_close(*run.step(), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gemma2", "gemma3"])
def test_decoding_gives_the_tokens_of_attention_role_by_role(
    family: str, kind: str, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, guidance = pairs(family, kind), Guidance(gamma=0.2, eta=0.5)
    assert lane.has_kernels(pair.expert)
    for wanted in (mixed_requests(16), shared_requests()):
        ours = decode(pair, wanted, 7, guidance)
        with monkeypatch.context() as patch:
            patch.setattr(lane, "has_kernels", lambda _: False)
            plain = decode(pair, wanted, 7, guidance)
        tokens: list[Mapping[int, tuple[int, ...]]] = [
            {i: done.token_ids for i, done in made.items()} for made in (ours, plain)
        ]
        assert tokens[0] == tokens[1]


def test_half_precision_is_left_to_torch(pairs: Pairs) -> None:
    """The loops know float32 only."""
    model = pairs("llama", "full").expert
    assert lane.has_kernels(model)
    model.model.norm.to(torch.bfloat16)
    try:
        assert not lane.has_kernels(model)
    finally:
        model.model.norm.to(torch.float32)


def test_the_exponential_is_right_to_seven_digits() -> None:
    """Seen through a softmax of two keys: 1 and e^x."""
    x = np.linspace(-80, 0, 4001, dtype=np.float32)
    found = np.empty_like(x)
    for i, each in enumerate(x):
        scores = np.array([0, each], dtype=np.float32)
        loops.softmax(scores.ctypes.data, 2, np.float32(0))
        found[i] = scores[1]
    wanted = np.exp(x.astype(np.float64))
    assert np.abs(found / wanted - 1).max() < 3e-7
