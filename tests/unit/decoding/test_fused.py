"""Choosing for all slots in one call, as the CUDA kernel does; here in plain torch, row by row.
The kernel itself is tested in tests/gpu."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from factory.guidance import Guidance, Sampling
from workers.decoding import ModelPair, choosing
from workers.decoding.guidance import steer
from workers.decoding.sampling import Noise, draw
from workers.streams import MASKED

from .test_decoder import mixed_requests
from .test_graphs import decode


def by_rows(
    logits: dict[str, Tensor],
    slots: Tensor,
    present: Tensor,
    keys: Tensor,
    tokens: Tensor,
    guidance: Guidance,
    sampling: Sampling,
) -> Tensor:
    """What `fused.choose` promises."""
    noise = Noise(len(tokens), tokens.device)
    assert torch.equal(noise.tokens, tokens)
    said = torch.zeros(len(slots), 9)
    for i, (slot, bits) in enumerate(zip(slots.tolist(), present.tolist(), strict=True)):
        rows = {role: x[slot : slot + 1] for role, x in logits.items()}
        names = [n for b, n in enumerate(("base", "negative", "center")) if bits >> b & 1]
        base, negative, center = (
            rows[name] if name in names else None for name in ("base", "negative", "center")
        )
        made = steer(rows["expert"], base, negative, guidance, center)
        gumbel = noise.gumbel(keys[i : i + 1])
        token = int(draw(made.scores, sampling, gumbel))
        alone = int(draw(made.expert.masked_fill(~made.keep, MASKED), sampling, gumbel))
        parts = (made.expert, made.base, made.negative, made.center, made.scores)
        picked = [0.0 if part is None else float(part[0, token]) for part in parts]
        said[i] = torch.tensor([token, *picked, alone, int(made.keep.sum()), 1])
    return said


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_one_call_for_all_slots_chooses_the_same(
    kind: str, pairs: Callable[[str, str], ModelPair], monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, guidance = pairs("llama", kind), Guidance(gamma=0.2, eta=0.5)
    plain = decode(pair, mixed_requests(9), 4, guidance)
    monkeypatch.setattr(choosing, "kernel", lambda *_: by_rows)
    for i, completion in decode(pair, mixed_requests(9), 4, guidance).items():
        ours, theirs = completion.trace, plain[i].trace
        assert completion.token_ids == plain[i].token_ids
        assert ours is not None
        assert theirs is not None
        for name in ("expert", "base", "negative", "center", "scores"):
            a, b = getattr(ours, name), getattr(theirs, name)
            assert (a is None) == (b is None)
            assert a is None or a == pytest.approx(b, abs=1e-4)
        assert ours.survivors.tolist() == theirs.survivors.tolist()
        assert ours.unguided.tolist() == theirs.unguided.tolist()


def test_rules_and_filters_that_the_kernel_does_not_know_go_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(choosing, "find_spec", lambda _: pytest.fail("the kernel is wanted"))
    cuda = torch.device("cuda")
    for guidance, sampling in (
        (Guidance(rule="contrastive"), Sampling()),
        (Guidance(), Sampling(typical_p=0.9)),
        (Guidance(), Sampling(top_k=5)),
    ):
        assert choosing.kernel(cuda, guidance, sampling) is None
