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
        more = None if bias is None else torch.cat((bias, bias.new_zeros(len(down))))
        self.register_buffer("joined", torch.cat((weight, down)), persistent=False)
        self.register_buffer("bias", more, persistent=False)
        self.register_buffer("up", up, persistent=False)
        self._rows = rows
        self._attached: list[tuple[Tensor, Tensor]] = []

    def attach(self, parts: Sequence[LowRank]) -> None:
        """Hold these adapters' parts beside the expert's, in the place of those before."""
        self._attached = [self._like(self.joined, part) for part in parts]

    def forward(self, x: Tensor) -> Tensor:
        """x: (rows, positions, in) → (rows, positions, out), a part of a larger tensor."""
        both = nn.functional.linear(x, self.joined, self.bias)
        out, low = torch.tensor_split(both, [both.shape[-1] - len(self.up)], dim=-1)
        ups = (self.up, *(up for _, up in self._attached))
        for i, (rows, up) in enumerate(zip(self._rows.of(x), ups, strict=False)):
            if rows.start < rows.stop:
                own = nn.functional.linear(x[rows], self._attached[i - 1][0]) if i else low[rows]
                out[rows].flatten(0, -2).addmm_(own.flatten(0, -2), up)
        return out

    def _like(self, weight: Tensor, part: LowRank) -> tuple[Tensor, Tensor]:
        """(rank, in) and (rank, out) of a weight's kind."""
        down, up = (x.detach().to(weight) for x in (part.down, part.up))
        return down, up.T.contiguous()


class RowSwitch(nn.Module):
    """A linear layer of the base and the same layer with each adapter folded in."""

    base: Tensor
    expert: Tensor
    bias: Tensor | None

    def __init__(
        self, base: Tensor, expert: LowRank, bias: Tensor | None, rows: AdapterRows
    ) -> None:
        """base: (in, out), the layer's weights; expert: what its adapter adds to them."""
        super().__init__()
        self.register_buffer("base", base, persistent=False)
        self.register_buffer("expert", self._folded(expert), persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self._rows = rows
        self._attached: list[Tensor] = []

    def attach(self, parts: Sequence[LowRank]) -> None:
        """Hold these adapters folded in beside the expert's, in the place of those before."""
        self._attached = []  # their memory is free before the next ones take some
        self._attached = [self._folded(part) for part in parts]

    def forward(self, x: Tensor) -> Tensor:
        """x: (rows, positions, in) → (rows, positions, out)."""
        each, flat = x.shape[1:-1].numel(), x.flatten(0, -2)
        out = flat.new_empty(len(flat), self.base.shape[1])
        rows, done = self._rows.of(x), 0
        for part, weights in zip(rows, (self.expert, *self._attached), strict=False):
            self._product(flat, weights, out, slice(part.start * each, part.stop * each))
            done = part.stop * each
        self._product(flat, self.base, out, slice(done, len(flat)))
        return out.view(*x.shape[:-1], -1)

    def _product(self, x: Tensor, weights: Tensor, out: Tensor, at: slice) -> None:
        if at.start == at.stop:
            return
        if self.bias is None:
            torch.mm(x[at], weights, out=out[at])
        else:
            torch.addmm(self.bias, x[at], weights, out=out[at])

    def _folded(self, part: LowRank) -> Tensor:
        """(in, out)."""
        return self.base + (part.up @ part.down).T.detach().to(self.base)


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


def split_rows(model: PeftModel, rows: AdapterRows, fold: bool) -> PreTrainedModel:
    """Replace peft's layers by ours and return the base model that now holds them.

    fold: keep each changed layer once more for every adapter, folded in. On a CPU the small
    products of a low-rank part cost more than the memory; on a GPU one copy is read once.
    """
    inner = cast(PreTrainedModel, model.get_base_model())
    for name, part in adapter_of(model).items():
        layer = cast(PeftLinear, inner.get_submodule(name))
        own = layer.get_base_layer()
        weight, bias = cast(Tensor, own.weight).detach(), cast(Tensor | None, own.bias)
        if layer.fan_in_fan_out:  # GPT-2's own layer keeps (in, out); nn.Linear (out, in)
            weight = weight.T
        bias = None if bias is None else bias.detach()
        ours = RowSwitch(weight.T, part, bias, rows) if fold else RowLora(weight, part, bias, rows)
        inner.set_submodule(name, ours)
    return inner


def attach(model: PreTrainedModel, adapters: Sequence[Adapter]) -> None:
    """Have a model of `split_rows` hold these adapters beside the expert's, in the place of those
    it held. Raises ModelError when they do not change the layers that the expert's changes."""
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, RowLora | RowSwitch)
    }
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
