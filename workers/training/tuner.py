"""Fine-tunes that all begin at one expert's LoRA adapter, on one copy of its base in memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from workers.layout import Layout
from workers.models.lora import LowRank, adapter_of
from workers.training.expert import ExpertConfig, Lists, loading
from workers.training.fit import row_log_probs, seeded
from workers.training.neighbours import by_words
from workers.training.recipe import Progress


@dataclass(frozen=True, eq=False)
class Tuner:
    """A base with an expert's adapter on it. start: the adapter's weights as they were loaded."""

    model: PeftModel
    lists: Lists
    start: dict[str, Tensor]

    @classmethod
    def load(
        cls,
        base: Path,
        expert: Path,
        layout: Layout,
        config: ExpertConfig,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "Tuner":
        """From the folders of a base and of a LoRA adapter. Raises ModelError."""
        with loading(base):
            model: Any = AutoModelForCausalLM.from_pretrained(
                base, dtype=dtype, use_safetensors=True, local_files_only=True
            )
        with loading(expert):
            model = PeftModel.from_pretrained(
                model.to(device), str(expert), is_trainable=True, local_files_only=True
            ).to(device)
        start = {name: weight.detach().clone() for name, weight in _trained(model)}
        return cls(model, Lists.of(layout, config, model, device), start)

    def tune(self, texts: Sequence[str], on_progress: Progress | None = None) -> None:
        """Tune the expert's own adapter on these texts, laid out as lists of like ones; what was
        tuned before is undone. The same texts give the same weights. Raises NumericalError."""
        with torch.no_grad():
            for name, weight in _trained(self.model):
                weight.copy_(self.start[name])
        with seeded(self.lists.config.seed):
            self.lists.tune(self.model, texts, by_words, on_progress)

    def adapter(self) -> dict[str, LowRank]:
        """What the adapter is now, on the CPU, in the model's dtype."""
        dtype = self.model.dtype
        return {
            path: LowRank(*(x.detach().to("cpu", dtype, copy=True) for x in vars(part).values()))
            for path, part in adapter_of(self.model).items()
        }

    def log_probs(self, texts: Sequence[str]) -> Iterator[float]:
        """The mean log-probability of each text's tokens and its end, nats a token, after the
        prompt."""
        for batch in self.lists.singles(texts):
            yield from row_log_probs(self.model, batch)


def _trained(model: PeftModel) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
