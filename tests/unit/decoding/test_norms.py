"""Norms of ours: only where they say what the model's own say."""

import pytest
import torch
from torch import nn

from workers.models.norms import Norm, fuse_norms

from . import conftest


def norms(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, Norm) or "Norm" in type(m).__name__]


@pytest.mark.parametrize(
    ("family", "fused"),
    [("llama", True), ("qwen2", True), ("mistral", True), ("gemma2", False), ("gemma3", False),
     ("gpt2", False)],
)  # fmt: skip
def test_a_norm_is_replaced_where_it_is_the_same(family: str, fused: bool) -> None:
    """Gemma's scale is 1 + weight, and GPT-2's norm subtracts a mean: they stay."""
    model = conftest.random_model(family, 1)
    ids = torch.randint(2, conftest.VOCAB, (3, 9), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        before = model(ids).logits
        count = len(norms(model))
        fuse_norms(model)
        after = model(ids).logits
    assert [isinstance(m, Norm) for m in norms(model)] == [fused] * count
    torch.testing.assert_close(after, before)


def test_what_is_named_like_a_norm_but_is_none_stays() -> None:
    """A module with the names of a norm that does something else, or holds more."""

    class HalvingRMSNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(8))
            self.variance_epsilon = 1e-6

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.rms_norm(x, (8,), self.weight / 2, self.variance_epsilon)

    class BiasedRMSNorm(HalvingRMSNorm):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.ones(8))

    model = nn.Sequential(HalvingRMSNorm(), BiasedRMSNorm())
    fuse_norms(model)
    assert [type(m) for m in model] == [HalvingRMSNorm, BiasedRMSNorm]
