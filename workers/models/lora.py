"""LoRA adapters applied row by row, so that rows of several adapters and of the base share one
forward.

Hu et al., arXiv 2106.09685: y = Wx + (α/r)·BAx. Here the second term is that of the row's own
adapter: the expert's rows come first in a batch, then those of each adapter that is attached
beside it, and the base's, which have none, last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from factory.errors import ModelError

from .layout import by_inputs


@dataclass(frozen=True, eq=False)
class LowRank:
    """What an adapter adds to a layer's weights, up @ down: down (rank, in), up (out, rank), which
    holds the adapter's scale."""

    down: Tensor
    up: Tensor


Adapter = Mapping[str, LowRank]  # by the names of the layers that it changes


class AdapterRows:
    """Which rows of the forward that runs now go through which adapter.

    attached   tells the adapters beside the expert's from others; "": there are none
    """

    def __init__(self) -> None:
        self.attached = ""
        self._parts: tuple[slice, ...] = ()
        self._total = 0

    def split(self, total: int, *counts: int) -> None:
        """Of the next forward's `total` rows the first are the expert's, then come those of each
        attached adapter: so many of each. The others are the base's."""
        self._parts = tuple(slice(a, b) for a, b in pairwise((0, *accumulate(counts))))
        self._total = total

    def of(self, x: Tensor) -> tuple[slice, ...]:
        """Each adapter's share of a layer's input. Raises ModelError when its first dimension is
        not the rows, as where a mixture of experts deals tokens out."""
        if x.shape[0] != self._total:
            raise ModelError(
                "the adapter changes a layer that does not see whole rows (a mixture of "
                "experts?): merge it into the base and use the merged model as the expert"
            )
        return self._parts


class RowLora(nn.Module):
    """A linear layer of the base and adapters' low-rank parts, for one copy of the weights.

    In float32 the weights that are held are the expert's, W + BA (BA: its adapter's scaled part),
    and the other rows are brought back: Wx = (W + BA)x − BAx. Half precision would lose some of W
    in that sum; there the base's are held, and the expert's rows are brought forth.

    The expert's down is kept as more of the layer's own outputs, so that one product makes both.
    """

    joined: Tensor
    bias: Tensor | None
    up: Tensor

    def __init__(
        self, weight: Tensor, expert: LowRank, bias: Tensor | None, rows: AdapterRows
    ) -> None:
        """weight: (out, in), the layer's; expert: its adapter's part."""
        super().__init__()
        down, up = self._like(weight, expert)
        self._outputs = len(weight)
        self._merged = weight.dtype == torch.float32
        held = weight + up.T @ down if self._merged else weight
        more = None if bias is None else torch.cat((bias, bias.new_zeros(len(down))))
        self.register_buffer("joined", by_inputs(torch.cat((held, down))), persistent=False)
        self.register_buffer("bias", more, persistent=False)
        self.register_buffer("up", up, persistent=False)
        self._rows = rows
        self._attached: list[tuple[Tensor, Tensor]] = []

    def attach(self, parts: Sequence[LowRank]) -> None:
        """Hold these adapters' parts beside the expert's, in the place of those before."""
        self._attached = [self._like(self.joined, part) for part in parts]

    def forward(self, x: Tensor) -> Tensor:
        """x: (rows, positions, in) → (rows, positions, out), maybe a part of a larger tensor."""
        expert, *others = self._rows.of(x)
        off = slice(expert.stop, len(x)) if self._merged else expert  # from the weights held
        if off.start == off.stop:
            bias = None if self.bias is None else self.bias[: self._outputs]
            out = nn.functional.linear(x, self.joined[: self._outputs], bias)
        else:
            both = nn.functional.linear(x, self.joined, self.bias)
            out, low = torch.tensor_split(both, [self._outputs], dim=-1)
            _add(out[off], low[off], self.up, -1 if self._merged else 1)
        for rows, (down, up) in zip(others, self._attached, strict=False):
            if rows.start < rows.stop:
                _add(out[rows], nn.functional.linear(x[rows], down), up)
        return out

    def _like(self, weight: Tensor, part: LowRank) -> tuple[Tensor, Tensor]:
        """(rank, in) and (rank, out) of a weight's kind."""
        down, up = (x.detach().to(weight) for x in (part.down, part.up))
        return down, up.T.contiguous()


def _add(out: Tensor, low: Tensor, up: Tensor, sign: int = 1) -> None:
    """out (rows, positions, out) plus or minus low @ up, in place."""
    out.flatten(0, -2).addmm_(low.flatten(0, -2), up, alpha=sign)


def load_adapter(base: PreTrainedModel, folder: Path) -> PeftModel:
    """Load a peft adapter folder onto `base` (which is changed in place)."""
    return PeftModel.from_pretrained(base, str(folder), is_trainable=False, local_files_only=True)


def is_plain_lora(model: PeftModel) -> bool:
    """Whether every trained part is an ordinary LoRA of a linear layer, without bias training."""
    layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer)]
    saved = any(isinstance(m, ModulesToSaveWrapper) for m in model.modules())
    config = model.peft_config[model.active_adapter]
    return (
        not saved
        and bool(layers)
        and getattr(config, "bias", "none") == "none"
        and not getattr(config, "trainable_token_indices", None)
        and all(_is_plain(layer) for layer in layers)
    )


def adapter_of(model: PeftModel) -> dict[str, LowRank]:
    """A plain LoRA's parts, on the model's own tensors."""
    name, inner = model.active_adapter, cast(PreTrainedModel, model.get_base_model())
    return {
        path: LowRank(
            cast(Tensor, layer.lora_A[name].weight),
            cast(Tensor, layer.lora_B[name].weight) * layer.scaling[name],
        )
        for path, layer in inner.named_modules()
        if isinstance(layer, PeftLinear)
    }


def split_rows(model: PeftModel, rows: AdapterRows) -> PreTrainedModel:
    """Replace peft's layers by ours and return the base model that now holds them."""
    inner = cast(PreTrainedModel, model.get_base_model())
    for name, part in adapter_of(model).items():
        layer = cast(PeftLinear, inner.get_submodule(name))
        own = layer.get_base_layer()
        weight, bias = cast(Tensor, own.weight).detach(), cast(Tensor | None, own.bias)
        if layer.fan_in_fan_out:  # GPT-2's own layer keeps (in, out); nn.Linear (out, in)
            weight = weight.T
        bias = None if bias is None else bias.detach()
        inner.set_submodule(name, RowLora(weight, part, bias, rows))
    return inner


def attach(model: PreTrainedModel, adapters: Sequence[Adapter]) -> None:
    """Have a model of `split_rows` hold these adapters beside the expert's, in the place of those
    it held. Raises ModelError when they do not change the layers that the expert's changes."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, RowLora)}
    if any(adapter.keys() != layers.keys() for adapter in adapters):
        raise ModelError("the adapters were tuned from another expert: they change other layers")
    for name, layer in layers.items():
        layer.attach([adapter[name] for adapter in adapters])


def merged(model: PeftModel) -> PreTrainedModel:
    """The base with any adapter folded into its weights."""
    inner: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    return inner


def _is_plain(layer: nn.Module) -> bool:
    if not isinstance(layer, PeftLinear) or layer.lora_variant:
        return False
    return all(part.bias is None for part in layer.lora_B.values())
