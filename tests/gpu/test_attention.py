"""Attention in kernels against attention role by role. TRITON_INTERPRET=1 runs these without a
card, slowly."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from factory.guidance import Guidance, Sampling
from tests.unit.decoding.test_decoder import mixed_requests
from tests.unit.decoding.test_graphs import Recorder, shared_requests
from workers.decoding import Completion, ModelPair, Request, SteerDecoder
from workers.streams import lane, tiles

Folders = Callable[[str], Path]
FAMILIES = ["llama", "gpt2", "mistral", "gemma2", "gemma3"]


@contextmanager
def attending(*, kernels: bool) -> Iterator[None]:
    """Attention of steps in kernels, or not, whatever the device."""
    from workers.streams.fused import Fused

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lane, "has_kernels", lambda _: kernels)
        patch.setattr(lane, "_kernels", lambda roles, _, grain: Fused([*roles], grain.rows))
        yield


def decode(pair: ModelPair, wanted: list[Request], *, kernels: bool) -> dict[int, Completion]:
    guidance, sampling = Guidance(gamma=0.2, eta=0.5), Sampling(max_new_tokens=10)
    with attending(kernels=kernels):
        run = SteerDecoder(pair, guidance, sampling, 7, trace=True).run(wanted)
        return {done.index: done for done in run}


def same(ours: dict[int, Completion], theirs: dict[int, Completion]) -> None:
    assert ours.keys() == theirs.keys()
    for i, completion in theirs.items():
        assert ours[i].token_ids == completion.token_ids
        for name in ("expert", "base", "negative", "center", "scores"):
            a, b = (getattr(made.trace, name) for made in (ours[i], completion))
            assert (a is None) == (b is None)
            assert a is None or a == pytest.approx(b, abs=1e-3)


def loaded(folders: Folders, family: str, kind: str, device: torch.device) -> ModelPair:
    folder = folders(family)
    pair = ModelPair.load(folder / "base", folder / kind, str(device))
    return replace(pair, recorder=None)


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_kernels_give_the_tokens_of_attention_role_by_role(
    family: str, kind: str, folders: Folders, kernel_device: torch.device
) -> None:
    pair = loaded(folders, family, kind, kernel_device)
    for wanted in (mixed_requests(9), shared_requests()[:9]):
        same(decode(pair, wanted, kernels=True), decode(pair, wanted, kernels=False))


def test_contexts_longer_than_a_piece_and_rows_more_than_a_tile(
    folders: Folders, kernel_device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces of 16 tokens and tiles of 2 rows: every context is read in parts."""
    from workers.streams import fused

    pair = loaded(folders, "llama", "lora", kernel_device)
    plain = decode(pair, shared_requests(), kernels=False)
    for module in (tiles, fused):
        monkeypatch.setattr(module, "PIECE", 16)
        monkeypatch.setattr(module, "ROWS", 2)
    same(decode(pair, shared_requests(), kernels=True), plain)


def test_recorded_steps_attend_in_kernels_too(
    folders: Folders, kernel_device: torch.device
) -> None:
    pair = loaded(folders, "llama", "lora", kernel_device)
    plain = decode(pair, shared_requests(), kernels=False)
    again = replace(pair, recorder=Recorder)
    for _ in range(2):
        same(decode(again, shared_requests(), kernels=True), plain)


def test_what_lies_beyond_a_row_is_never_read(
    folders: Folders, kernel_device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Buffers that begin as NaN: only what a row has written is seen."""
    pair = loaded(folders, "llama", "lora", kernel_device)
    plain = decode(pair, shared_requests(), kernels=False)
    zeros = torch.Tensor.new_zeros

    def poisoned(like: torch.Tensor, *shape: int) -> torch.Tensor:
        return zeros(like, *shape).fill_(torch.nan)

    monkeypatch.setattr(torch.Tensor, "new_zeros", poisoned)
    same(decode(pair, shared_requests(), kernels=True), plain)
