"""Layers of several adapters: each row is its own adapter's, whatever stands beside it."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from workers.models.layout import by_inputs, lay_out
from workers.models.lora import AdapterRows, LowRank, RowLora

from . import conftest

IN, OUT, RANK = 24, 40, 3


@dataclass(frozen=True)
class Layer:
    """A layer with an expert's adapter and two more, and what each is alone."""

    ours: RowLora
    rows: AdapterRows
    weight: Tensor
    bias: Tensor | None
    parts: tuple[LowRank, ...]  # the expert's, then those beside it

    def alone(self, x: Tensor, owner: int | None) -> Tensor:
        """What rows of one owner (None: the base) become, in double precision."""
        weight = self.weight.double()
        if owner is not None:
            weight = weight + self.parts[owner].up.double() @ self.parts[owner].down.double()
        bias = None if self.bias is None else self.bias.double()
        return torch.nn.functional.linear(x.double(), weight, bias)


def layer(dtype: torch.dtype, *, bias: bool) -> Layer:
    torch.manual_seed(3)
    weight = torch.randn(OUT, IN).to(dtype)
    parts = tuple(LowRank(torch.randn(RANK, IN), torch.randn(OUT, RANK)) for _ in range(3))
    rows, more = AdapterRows(), torch.randn(OUT).to(dtype) if bias else None
    ours = RowLora(weight, parts[0], more, rows)
    ours.attach(parts[1:])
    return Layer(ours, rows, weight, more, parts)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("dtype", "rtol", "atol"), [(torch.float32, 1e-5, 1e-4), (torch.bfloat16, 0.03, 0.3)]
)
@pytest.mark.parametrize(
    "counts", [(2, 0, 0, 3), (5, 0, 0, 0), (0, 0, 0, 4), (2, 1, 3, 2), (0, 2, 0, 1), (1, 0, 2, 0)]
)
def test_every_row_goes_through_its_own_adapter(
    counts: tuple[int, ...], dtype: torch.dtype, rtol: float, atol: float, bias: bool
) -> None:
    """In half precision, too, where other weights are held."""
    made = layer(dtype, bias=bias)
    made.rows.split(sum(counts), *counts[:3])
    x = torch.randn(sum(counts), 2, IN).to(dtype)
    found = made.ours(x)
    owners: tuple[int | None, ...] = (0, 1, 2, None)
    for part, inputs, owner in zip(found.split(counts), x.split(counts), owners, strict=True):
        alone = made.alone(inputs, owner)
        torch.testing.assert_close(part.double(), alone, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_the_bases_weights_stay_to_the_bit(dtype: torch.dtype) -> None:
    """With an adapter added to them they would be rounded anew."""
    made = layer(dtype, bias=False)
    assert torch.equal(made.ours.joined[:OUT], made.weight)


def test_a_weight_is_the_same_however_it_lies() -> None:
    weight = torch.randn(5, 3)
    assert torch.equal(by_inputs(weight), weight)
    assert by_inputs(weight).T.is_contiguous()


@pytest.mark.parametrize("tied", [False, True])
def test_a_model_says_the_same_and_what_is_looked_up_stays(tied: bool) -> None:
    model = conftest.random_model("llama", 1)
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    ids = torch.arange(2, 12)[None]
    with torch.inference_mode():
        before = model(ids).logits
        lay_out(model)
        torch.testing.assert_close(model(ids).logits, before)
    head = model.lm_head.weight
    assert (head if tied else head.T).is_contiguous()
    assert model.model.layers[0].mlp.up_proj.weight.T.is_contiguous()
    assert model.model.embed_tokens.weight.is_contiguous()
