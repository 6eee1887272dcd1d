"""Layers of several adapters: each row is its own adapter's, whatever stands beside it."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from workers.models.layout import by_inputs
from workers.models.lora import AdapterRows, LowRank, RowLora

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
    "counts", [(2, 0, 0, 3), (5, 0, 0, 0), (0, 0, 0, 4), (2, 1, 3, 2), (0, 2, 0, 1), (1, 0, 2, 0)]
)
def test_every_row_goes_through_its_own_adapter(counts: tuple[int, ...], bias: bool) -> None:
    made = layer(torch.float32, bias=bias)
    made.rows.split(sum(counts), *counts[:3])
    x = torch.randn(sum(counts), 2, IN)
    found = made.ours(x)
    owners: tuple[int | None, ...] = (0, 1, 2, None)
    for part, inputs, owner in zip(found.split(counts), x.split(counts), owners, strict=True):
        torch.testing.assert_close(part.double(), made.alone(inputs, owner), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_the_bases_weights_stay_to_the_bit(dtype: torch.dtype) -> None:
    """With an adapter added to them they would be rounded anew."""
    made = layer(dtype, bias=False)
    x = torch.randn(7, 1, IN).to(dtype)
    made.rows.split(7, 4)
    assert torch.equal(made.ours.joined[:OUT], made.weight)
    expert, base = made.ours(x).double().split([4, 3])
    torch.testing.assert_close(base, made.alone(x[4:], None), rtol=0.01, atol=0.05)
    torch.testing.assert_close(expert, made.alone(x[:4], 0), rtol=0.03, atol=0.3)


def test_a_weight_is_the_same_however_it_lies() -> None:
    weight = torch.randn(5, 3)
    assert torch.equal(by_inputs(weight), weight)
    assert by_inputs(weight).T.is_contiguous()
