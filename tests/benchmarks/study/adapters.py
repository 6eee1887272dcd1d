"""Accepted-minus-rejected adapters, the costly lever: two fine-tunes and a second model a token.

With A and R the expert tuned on accepted and on rejected texts, s = A + ρ(A − R), as DExperts (Liu
et al., arXiv 2105.03023) with A in the place of the model that is steered.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tests.benchmarks.study.beds import Bed
from workers.decoding import ModelPair
from workers.models.lora import load_adapter, merged
from workers.training.expert import FEWEST, ExpertConfig, train_expert

WEIGHT = 1.0  # ρ
LEAST = FEWEST + 2  # texts of either verdict
TUNING = ExpertConfig(steps=30, batch=8, context=128, learning_rate=2e-3, heldout=0)


def tuned_apart(bed: Bed, accepted: Sequence[str], rejected: Sequence[str]) -> ModelPair:
    """A as the expert of a pair whose base is R, both tuned from the bed's own expert."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        whole = _whole(bed, folder / "expert")
        models = [
            _tuned(whole, texts, folder / verdict, bed.task.prompt)
            for verdict, texts in (("accepted", accepted), ("rejected", rejected))
        ]
    return ModelPair.of(base=models[1], expert=models[0])


def _whole(bed: Bed, out: Path) -> Path:
    """The expert as one model, with its adapter folded in if it is one."""
    model = AutoModelForCausalLM.from_pretrained(bed.base)
    if (bed.expert / "adapter_config.json").exists():
        model = merged(load_adapter(model, bed.expert))
    else:
        model = AutoModelForCausalLM.from_pretrained(bed.expert)
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(bed.base).save_pretrained(out)
    return out


def _tuned(expert: Path, texts: Sequence[str], out: Path, prompt: str) -> PreTrainedModel:
    tuned = train_expert(expert, texts, out, prompt=prompt, config=TUNING)
    return merged(load_adapter(AutoModelForCausalLM.from_pretrained(expert), tuned.path))
