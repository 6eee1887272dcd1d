"""What the attention kernels are given, on the CPU: in their place plain torch, row by row, which
reads nothing but what a step's tiles and numbers say. The kernels are tested in tests/gpu."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from factory.guidance import Guidance
from workers.decoding import ModelPair, Request
from workers.models.attention import Scoring, additive, attend, visible
from workers.streams import lane, tiles
from workers.streams.kv import Ints, Role
from workers.streams.plan import Grain, Plan
from workers.streams.tiles import HEAD, ROWS, Step, Tiles, Tiling

from .test_decoder import mixed_requests
from .test_graphs import Recorder, decode, shared_requests

Pairs = Callable[[str, str], ModelPair]


class ByRows:
    """Stands in for `fused.Fused` and the attender that it makes."""

    def __init__(self, roles: Iterable[Role], device: torch.device, grain: Grain) -> None:
        self._roles = [*roles]
        self._tiles = Tiles(grain.rows)

    def clear(self) -> None:
        """No address is remembered."""

    def arrange(self, live: Mapping[int, Role]) -> tuple[Tiling, Ints]:
        return self._tiles.of(live)

    def attender(self, tiling: Tiling, integers: Tensor, plans: Sequence[Plan]) -> "ByRows":
        self.step = Step(tiling, integers, plans)
        return self

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> Tensor:
        step = self.step
        near = self._contexts(layer)
        out = torch.empty_like(query)
        for row, (role, place) in enumerate(step.places.view(-1, 2).tolist()):
            shared, own = int(step.shared[row]), int(step.own[row])
            buffers = self._roles[role].buffers(layer)
            assert buffers is not None
            both = []
            for new, buffer, context in zip(
                (key, value), buffers[2:], near.get(row, ([], [])), strict=True
            ):
                buffer[place, :, own] = new[row, :, 0]
                both.append(torch.cat([*context, buffer[place, :, : own + 1]], dim=1))
            assert both[0].shape[1] == shared + own + 1
            seen = visible(torch.tensor([shared + own]), torch.arange(shared + own + 1),
                           scoring.window)  # fmt: skip
            keys, values = (x[None] for x in both)
            out[row] = attend(query[row : row + 1], keys, values, scoring, additive(seen))
        return out

    def _contexts(self, layer: int) -> dict[int, tuple[list[Tensor], list[Tensor]]]:
        """Of each row the pieces of its context, in order; none is missing or comes twice."""
        found: dict[int, tuple[list[Tensor], list[Tensor]]] = {}
        for role, context, start, *rows in self.step.tiles.view(-1, HEAD + ROWS).tolist():
            for row in (row for row in rows if row >= 0):
                pieces = found.setdefault(row, ([], []))
                end = min(start + tiles.PIECE, int(self.step.shared[row]))
                assert start == sum(piece.shape[1] for piece in pieces[0])
                buffers = self._roles[role].buffers(layer)
                assert buffers is not None
                for piece, buffer in zip(pieces, buffers[:2], strict=True):
                    piece.append(buffer[context, :, start:end])
        return found


@pytest.fixture(autouse=True)
def _in_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a card, scaled to tiny models: contexts are read in pieces."""
    monkeypatch.setattr(lane, "RECORDED", Grain(rows=4, columns=6, width=16))
    monkeypatch.setattr(lane, "_kernels", ByRows)
    monkeypatch.setattr(tiles, "PIECE", 5)


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gemma2"])
def test_what_the_tiles_say_is_what_every_row_sees(
    family: str, kind: str, recorded: bool, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, guidance = pairs(family, kind), Guidance(gamma=0.2, eta=0.5)
    wanted: list[Request]
    for wanted in (mixed_requests(16), shared_requests()):
        monkeypatch.setattr(lane, "has_kernels", lambda _: False)
        plain = decode(pair, wanted, 7, guidance)
        monkeypatch.setattr(lane, "has_kernels", lambda _: True)
        ours = decode(replace(pair, recorder=Recorder if recorded else None), wanted, 7, guidance)
        for i, completion in plain.items():
            assert ours[i].token_ids == completion.token_ids
            assert ours[i].trace is not None
            assert completion.trace is not None
            assert ours[i].trace.scores == pytest.approx(completion.trace.scores, abs=1e-3)


def test_a_shape_does_not_depend_on_how_far_rows_are(
    pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of one length are recorded once, for all of their tokens."""
    monkeypatch.setattr(lane, "has_kernels", lambda _: True)
    monkeypatch.setattr(Recorder, "recorded", 0)
    wanted = [Request((5, 6, 7), (8, 9, 10, 11), seed=i) for i in range(4)]
    pair = replace(pairs("llama", "lora"), recorder=Recorder, eos_ids=frozenset())
    decode(pair, wanted, 4, Guidance(gamma=0.2, eta=0.5))
    assert Recorder.recorded == 1
