"""A model's own RMS norms in fewer operations, where those say the same.

transformers writes them out in seven, each of which reads and writes all rows; on a GPU torch has
one kernel for them, on a CPU it writes them out, too. Families differ in small ways (Gemma's scale
is 1 + weight, in float32), so a norm is tried before it is replaced.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

TRIED = 4  # rows that both must agree on


class Norm(nn.Module):
    """weight · x / √(mean x² + ε), over the last dimension."""

    def __init__(self, weight: nn.Parameter, epsilon: float) -> None:
        super().__init__()
        self.weight = weight
        self._epsilon, self._least = epsilon, torch.tensor(epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """(…, size) → (…, size)."""
        size = self.weight.shape
        if x.device.type != "cpu":
            return nn.functional.rms_norm(x, size, self.weight, self._epsilon)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        square = torch.addcmul(self._least, length, length, value=1 / len(self.weight))
        return (x * square.rsqrt_()).mul_(self.weight)


def fuse_norms(model: PreTrainedModel) -> None:
    """Replace the norms of a model, which is only run from now on, where ours say the same."""
    for name, module in list(model.named_modules()):
        if type(module).__name__.endswith("RMSNorm") and not hasattr(module, "_hf_hook"):
            ours = _like(module)
            if ours is not None and _agree(module, ours):
                model.set_submodule(name, ours)


def _like(module: nn.Module) -> Norm | None:
    """Ours with a module's weight and ε, if that is all it has."""
    epsilon = getattr(module, "variance_epsilon", None)
    parts = dict(module.named_parameters())
    plain = parts.keys() == {"weight"} and isinstance(epsilon, float)
    return Norm(parts["weight"], epsilon) if plain else None  # type: ignore[arg-type]


@torch.inference_mode()
def _agree(theirs: nn.Module, ours: Norm) -> bool:
    """Whether both say the same of random rows, to within two roundings."""
    weight = ours.weight
    rows = torch.randn(TRIED, len(weight), generator=torch.Generator().manual_seed(0))
    x = rows.to(weight)
    rounding = 2 * torch.finfo(weight.dtype).eps
    return torch.allclose(theirs(x), ours(x), rtol=rounding, atol=rounding)
