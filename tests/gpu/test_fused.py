"""The kernel against its reference. TRITON_INTERPRET=1 runs these without a card, slowly."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from factory.guidance import Guidance, Sampling
from tests.unit.decoding.test_decoder import mixed_requests
from workers.decoding import Request, SteerDecoder, choosing, fused
from workers.decoding.guidance import Steered, steer
from workers.decoding.sampling import Noise, draw, noise_keys
from workers.streams import MASKED

GUIDANCES = [
    Guidance(gamma=0.2, eta=0.5),
    Guidance(gamma=0, eta=0),
    Guidance(gamma=-0.5, eta=1, alpha=0.05, nucleus=0.5),
    Guidance(gamma=0.3, eta=0.5, nucleus=1, alpha=0),
    Guidance(rule="paper", gamma=0.2, eta=0.2),
    Guidance(rule="paper", gamma=0.2, eta=0.2, alpha=0.1, nucleus=0.9),
]


def streams(vocab: int, rows: int, device: torch.device) -> dict[str, Tensor]:
    """Logits from flat to so sharp that one token holds the mass; many ties; banned tokens."""
    sharpness = torch.tensor([0.5, 2, 4, 8, 30])[torch.arange(rows) % 5, None]
    logits = {
        role: torch.randn(rows, vocab) * sharpness
        for role in ("expert", "base", "negative", "center")
    }
    logits["expert"][1] = torch.randint(0, 4, (vocab,)).float()
    logits["expert"][3] = 0
    return {
        role: x.index_fill(1, torch.tensor([0, 1]), MASKED).to(device) for role, x in logits.items()
    }


def reference(logits: dict[str, Tensor], slot: int, flags: int, guidance: Guidance) -> Steered:
    def row(role: str, bit: int) -> Tensor | None:
        return logits[role][slot : slot + 1] if flags & bit else None

    expert = logits["expert"][slot : slot + 1]
    base = row("base", 1) if guidance.uses_base else None
    return steer(expert, base, row("negative", 2), guidance, row("center", 4))


@pytest.mark.parametrize("temperature", [1.0, 0.0, 0.7])
@pytest.mark.parametrize("vocab", [61, 5000])
@pytest.mark.parametrize("guidance", GUIDANCES, ids=repr)
def test_the_kernel_is_the_reference(
    guidance: Guidance, vocab: int, temperature: float, kernel_device: torch.device
) -> None:
    torch.manual_seed(vocab)
    logits = streams(vocab, 10, kernel_device)
    sampling, noise = Sampling(temperature=temperature), Noise(vocab, kernel_device)
    slots = torch.tensor([7, 0, 3, 1, 9, 2], device=kernel_device)
    present = torch.tensor([7, 3, 3, 7, 1, 7], device=kernel_device)
    keys = noise_keys(torch.randint(0, 2**53, (6,)), torch.arange(6)).to(kernel_device)
    said = fused.choose(logits, slots, present, keys, noise.tokens, guidance, sampling).cpu()
    for i, (slot, flags) in enumerate(zip(slots.tolist(), present.tolist(), strict=True)):
        wanted = reference(logits, slot, flags, guidance)
        gumbel = noise.gumbel(keys[i : i + 1])
        token, unguided, survivors = (int(said[i, c]) for c in (0, 6, 7))
        assert said[i, 8] == 1
        assert bool(wanted.keep[0, token])
        assert survivors == int(wanted.keep.sum())
        noisy = wanted.scores / (temperature or 1) + (gumbel if temperature else 0)
        best = noisy.masked_fill(~wanted.keep, -torch.inf).amax()
        assert float(noisy[0, token]) == pytest.approx(float(best), abs=1e-4)
        alone = draw(wanted.expert.masked_fill(~wanted.keep, MASKED), sampling, gumbel)
        assert unguided == int(alone)
        assert float(said[i, 5]) == pytest.approx(float(wanted.scores[0, token]), abs=1e-3)
        parts = (wanted.expert, wanted.base, wanted.negative, wanted.center)
        for column, part in enumerate(parts, start=1):
            if part is not None:
                assert float(said[i, column]) == pytest.approx(float(part[0, token]), abs=1e-3)


def test_the_noise_is_the_same(kernel_device: torch.device) -> None:
    """Flat logits: the noise alone decides, and a million draws agree but for near ties."""
    vocab, rows = 4000, 250
    logits = {"expert": torch.zeros(rows, vocab, device=kernel_device)}
    keys = noise_keys(torch.arange(rows) * 7919, torch.arange(rows)).to(kernel_device)
    noise = Noise(vocab, kernel_device)
    slots, none = torch.arange(rows, device=kernel_device), torch.zeros(rows, dtype=torch.long)
    said = fused.choose(
        logits, slots, none.to(kernel_device), keys, noise.tokens,
        Guidance(gamma=0, eta=0, nucleus=1), Sampling(),
    )  # fmt: skip
    gumbel = noise.gumbel(keys)
    chosen = gumbel.gather(1, said[:, :1].long())
    assert (gumbel.amax(dim=1, keepdim=True) - chosen).abs().max() < 1e-4
    assert (said[:, 0].long() == gumbel.argmax(dim=1)).sum() >= rows - 1


@pytest.mark.parametrize("role", ["expert", "base", "negative", "center"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_rows_that_are_not_finite_are_told(
    role: str, value: float, kernel_device: torch.device
) -> None:
    logits = streams(300, 4, kernel_device)
    logits[role][2, 50] = value
    rows = torch.arange(4, device=kernel_device)
    keys = torch.zeros(4, 2, dtype=torch.int32, device=kernel_device)
    noise = Noise(300, kernel_device)
    said = fused.choose(logits, rows, rows * 0 + 7, keys, noise.tokens, GUIDANCES[0], Sampling())
    assert said[:, 8].tolist() == [1, 1, 0, 1]
    unseen = fused.choose(
        logits, rows, rows * 0, keys, noise.tokens, Guidance(gamma=0, eta=0.5), Sampling()
    )
    assert unseen[:, 8].tolist() == [1, 1, float(role != "expert"), 1]


def decode(pair: object, requests: list[Request]) -> Iterator[tuple[int, tuple[int, ...], bytes]]:
    steering = SteerDecoder(
        pair, Guidance(gamma=0.2, eta=0.5), Sampling(max_new_tokens=6), 4, trace=True
    )
    for done in sorted(steering.run(requests), key=lambda c: c.index):
        assert done.trace is not None
        yield done.index, done.token_ids, done.trace


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_run_with_the_kernel_gives_the_references_tokens_and_traces(
    kind: str,
    folders: object,
    kernel_device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from workers.decoding import ModelPair

    folder = folders("llama")
    pair = ModelPair.load(folder / "base", folder / kind, str(kernel_device))
    pair = replace(pair, recorder=None)
    requests = mixed_requests(7)
    monkeypatch.setattr(choosing, "kernel", lambda *_: None)
    plain = list(decode(pair, requests))
    monkeypatch.setattr(choosing, "kernel", lambda *_: fused.choose)
    for ours, theirs in zip(decode(pair, requests), plain, strict=True):
        assert ours[:2] == theirs[:2]
        for name in ("expert", "base", "negative", "center", "scores"):
            a, b = getattr(ours[2], name), getattr(theirs[2], name)
            assert (a is None) == (b is None)
            assert a is None or a == pytest.approx(b, abs=1e-3)
        assert ours[2].survivors.tolist() == theirs[2].survivors.tolist()
        assert ours[2].unguided.tolist() == theirs[2].unguided.tolist()
