"""A LoRA adapter applied row by row, so that expert and base rows share one forward.

Hu et al., arXiv 2106.09685: y = Wx + (α/r)·BAx. Here the second term is
added to the first rows of a batch, the expert's, and not to the base's, which follow.
"""

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


class ExpertRows:
    """How many rows of the forward that runs now are the expert's; they come first."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0

    def of(self, x: Tensor) -> int:
        """The expert's share of a layer's input. Raises ModelError when its first dimension is
        not the rows, as where a mixture of experts deals tokens out."""
        if x.shape[0] != self.total:
            raise ModelError(
                "the adapter changes a layer that does not see whole rows (a mixture of "
                "experts?): merge it into the base and use the merged model as the expert"
            )
        return self.count


class RowLora(nn.Module):
    """A linear layer of the base and its adapter's low-rank part, for one copy of the weights."""

    down: Tensor
    up: Tensor

    def __init__(self, layer: nn.Module, down: Tensor, up: Tensor, rows: ExpertRows) -> None:
        """layer: (…, in) → (…, out); down: (rank, in); up: (out, rank), already scaled."""
        super().__init__()
        self.layer = layer
        like = next(layer.parameters())
        self.register_buffer("down", down.detach().to(like).T.contiguous(), persistent=False)
        self.register_buffer("up", up.detach().to(like).T.contiguous(), persistent=False)
        self._rows = rows

    def forward(self, x: Tensor) -> Tensor:
        """x: (rows, positions, in) → (rows, positions, out)."""
        out: Tensor = self.layer(x)
        count = self._rows.of(x)
        if count:
            low = x[:count].flatten(0, -2) @ self.down
            out[:count].flatten(0, -2).addmm_(low, self.up)
        return out


class RowSwitch(nn.Module):
    """A linear layer of the base and the same layer with the adapter folded in."""

    base: Tensor
    expert: Tensor
    bias: Tensor | None

    def __init__(self, base: Tensor, delta: Tensor, bias: Tensor | None, rows: ExpertRows) -> None:
        """base, delta: (in, out), the layer's weights and what the adapter adds to them."""
        super().__init__()
        self.register_buffer("base", base, persistent=False)
        self.register_buffer("expert", base + delta, persistent=False)
        self.register_buffer("bias", bias, persistent=False)
        self._rows = rows

    def forward(self, x: Tensor) -> Tensor:
        """x: (rows, positions, in) → (rows, positions, out)."""
        count = self._rows.of(x) * x.shape[1:-1].numel()
        flat = x.flatten(0, -2)
        out = flat.new_empty(len(flat), self.base.shape[1])
        for part, weights in ((slice(count), self.expert), (slice(count, None), self.base)):
            if self.bias is None:
                torch.mm(flat[part], weights, out=out[part])
            else:
                torch.addmm(self.bias, flat[part], weights, out=out[part])
        return out.view(*x.shape[:-1], -1)


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


def split_rows(model: PeftModel, rows: ExpertRows, fold: bool) -> PreTrainedModel:
    """Replace peft's layers by ours and return the base model that now holds them.

    fold: keep each changed layer twice, plain and with the adapter folded in. On a CPU the
    small products of a low-rank part cost more than the memory; on a GPU one copy is read once.
    """
    adapter = model.active_adapter
    inner = cast(PreTrainedModel, model.get_base_model())
    for name, layer in list(inner.named_modules()):
        if isinstance(layer, PeftLinear):
            part = _switch(layer, adapter, rows) if fold else _low_rank(layer, adapter, rows)
            inner.set_submodule(name, part)
    return inner


def merged(model: PeftModel) -> PreTrainedModel:
    """The base with any adapter folded into its weights."""
    inner: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    return inner


def _is_plain(layer: nn.Module) -> bool:
    if not isinstance(layer, PeftLinear) or layer.lora_variant:
        return False
    return all(part.bias is None for part in layer.lora_B.values())


def _low_rank(layer: PeftLinear, adapter: str, rows: ExpertRows) -> RowLora:
    down = cast(Tensor, layer.lora_A[adapter].weight)
    up = cast(Tensor, layer.lora_B[adapter].weight) * layer.scaling[adapter]
    return RowLora(layer.get_base_layer(), down, up, rows)


def _switch(layer: PeftLinear, adapter: str, rows: ExpertRows) -> RowSwitch:
    base = layer.get_base_layer()
    weight, bias = cast(Tensor, base.weight).detach(), cast(Tensor | None, base.bias)
    delta = layer.get_delta_weight(adapter).to(weight.dtype).detach()
    if not layer.fan_in_fan_out:  # nn.Linear keeps (out, in); GPT-2's own layer (in, out)
        weight, delta = weight.T, delta.T
    return RowSwitch(weight, delta, None if bias is None else bias.detach(), rows)
