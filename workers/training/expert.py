"""The expert: a causal LM fine-tuned on a dataset's samples, laid out as lists of like samples.

Half of its documents hold one sample, half a sample among its nearest neighbours. Lists in
random order would teach it that its context says nothing, and negatives would not steer it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from factory.errors import Invalid, ModelError
from workers import layout
from workers.layout import Layout
from workers.training import recipe
from workers.training.fit import (
    IGNORED,
    Batch,
    batch_loss,
    fit,
    flat_then_linear,
    pad_batch,
    seeded,
)
from workers.training.neighbours import Neighbours, by_words
from workers.training.recipe import Progress, Trained

FEWEST = 8  # samples that a fine-tune can be made from
PAD = 0  # what fills rows up is masked, so any id does


@dataclass(frozen=True)
class ExpertConfig:
    """How an expert is fine-tuned. The defaults suit the demo's base.

    method         "lora" trains rank-`rank` adapters on all linear layers; "full" all weights
    longest_list   samples in the longest list, 2 or more
    context        longest document in tokens; lists are cut at whole samples
    heldout        share of the samples kept out of training, to measure on
    """

    method: Literal["lora", "full"] = "lora"
    seed: int = 1
    steps: int = 40
    batch: int = 16
    learning_rate: float = 2e-3
    rank: int = 8
    lora_alpha: int = 16
    longest_list: int = 6
    context: int = 256
    heldout: float = 0.1


def train_expert(
    base: Path,
    texts: Sequence[str],
    out: Path,
    *,
    prompt: str,
    config: ExpertConfig | None = None,
    neighbours: Neighbours = by_words,
    device: str = "cpu",
    dtype: str = "float32",
    on_progress: Progress | None = None,
) -> Trained:
    """Fine-tune `base` on `texts` and save it in `out`: an adapter for "lora", else a whole model.

    Returns at once when `out` holds the same recipe's result. `neighbours` finds the
    nearest others of each sample. Raises Invalid for too few samples, ModelError for a base
    that cannot be loaded, NumericalError when the loss is not finite.
    """
    config = config or ExpertConfig()
    if len(texts) < FEWEST:
        raise Invalid(f"an expert needs at least {FEWEST} samples, the dataset has {len(texts)}")
    plan = _recipe(base, texts, prompt, config, neighbours)
    found = recipe.finished(out, plan)
    if found is not None:
        return found
    with seeded(config.seed):
        tokenizer, model = _load(base, config, device, dtype)
        lists = Lists.of(Layout(tokenizer, prompt), config, model, device)
        kept, unseen = _split(texts, config)
        loss = lists.tune(model, kept, neighbours, on_progress)
        measured = lists.loss_on(model, unseen)
    with recipe.publishing(out) as draft:
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        recipe.write(draft, plan, loss, measured)
    return Trained(out, loss, measured, cached=False)


@dataclass(frozen=True)
class Lists:
    """Samples as rows to train on. Loss is taken on texts and their eos, not on the prompt.

    context  tokens of the longest row
    """

    layout: Layout
    config: ExpertConfig
    context: int
    device: str

    @classmethod
    def of(cls, layout: Layout, config: ExpertConfig, model: Any, device: str) -> "Lists":
        """Rows for a model, no longer than it can take."""
        limit = getattr(model.config, "max_position_embeddings", config.context)
        return cls(layout, config, min(config.context, limit), device)

    def tune(
        self,
        model: torch.nn.Module,
        texts: Sequence[str],
        neighbours: Neighbours,
        on_progress: Progress | None,
    ) -> float:
        """Train what of a model can be trained; the mean loss of the last steps, see `fit`."""
        return fit(
            model,
            self.batches(texts, neighbours(texts, self.config.longest_list - 1)),
            steps=self.config.steps,
            optimizer=_optimizer(model, self.config),
            schedule=flat_then_linear(self.config.steps),
            on_progress=on_progress,
        )

    def singles(self, texts: Sequence[str]) -> Iterator[Batch]:
        """Batches of single samples, in order."""
        size = self.config.batch
        for start in range(0, len(texts), size):
            yield self._batch([[text] for text in texts[start : start + size]])

    def batches(self, texts: Sequence[str], nearest: Sequence[Sequence[int]]) -> Iterator[Batch]:
        """`steps` batches of `batch` documents; every sample leads one before any leads two."""
        rng = Random(self.config.seed)
        leads = _rounds(rng, len(texts))
        for _ in range(self.config.steps):
            documents = [
                _list_around(rng, next(leads), nearest, self.config.longest_list)
                for _ in range(self.config.batch)
            ]
            yield self._batch([[texts[i] for i in document] for document in documents])

    def loss_on(self, model: torch.nn.Module, texts: Sequence[str]) -> float | None:
        """Mean loss of single samples, nats a token; None without samples."""
        if not texts:
            return None
        with torch.no_grad():
            losses = [(float(batch_loss(model, b)), len(b.ids)) for b in self.singles(texts)]
        return sum(loss * count for loss, count in losses) / len(texts)

    def _batch(self, documents: Sequence[Sequence[str]]) -> Batch:
        rows, labels = zip(*(self._row(document) for document in documents), strict=True)
        return pad_batch(rows, labels, PAD).to(self.device)

    def _row(self, texts: Sequence[str]) -> tuple[list[int], list[int]]:
        ids: list[int] = list(self.layout.list_ids(()))
        labels = [IGNORED] * len(ids)
        for position, text in enumerate(texts):
            document = self.layout.document_ids(text)
            if position and len(ids) + len(document) > self.context:
                break
            ids += document
            unlearned = len(document) - len(self.layout.text_ids(text)) - 1
            labels += [IGNORED] * unlearned + list(document[unlearned:])
        return ids[: self.context], labels[: self.context]


def _recipe(
    base: Path, texts: Sequence[str], prompt: str, config: ExpertConfig, neighbours: Neighbours
) -> dict[str, Any]:
    weights = sorted(base.glob("*.safetensors"))
    if not weights:
        raise ModelError(f"{base} holds no safetensors weights: give the folder of a saved model")
    samples = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    return {
        "kind": "expert",
        "layout": layout.NAME,
        "base": [recipe.file_digest(path) for path in weights],
        "samples": samples,
        "prompt": prompt,
        "neighbours": neighbours.__name__,
        **asdict(config),
    }


def _load(base: Path, config: ExpertConfig, device: str, dtype: str) -> tuple[Any, Any]:
    """The base's tokenizer, and the base ready to be trained by the method."""
    with loading(base):
        tokenizer = AutoTokenizer.from_pretrained(base)
        model: Any = AutoModelForCausalLM.from_pretrained(
            base, dtype=getattr(torch, dtype), use_safetensors=True
        )
    if config.method == "lora":
        adapter = LoraConfig(
            r=config.rank,
            lora_alpha=config.lora_alpha,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(model, adapter)
    return tokenizer, model.to(device)


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """Raises ModelError where what is in a folder cannot be loaded."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"the model at {folder} cannot be loaded: {error}") from error


def _optimizer(model: torch.nn.Module, config: ExpertConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=0.0,
    )


def heldout(count: int, config: ExpertConfig) -> set[int]:
    """Which of so many samples are kept out of training, by their place."""
    return set(Random(config.seed).sample(range(count), int(count * config.heldout)))


def _split(texts: Sequence[str], config: ExpertConfig) -> tuple[list[str], list[str]]:
    """Samples to train on, and those kept out; both in the order given."""
    out = heldout(len(texts), config)
    return (
        [text for i, text in enumerate(texts) if i not in out],
        [text for i, text in enumerate(texts) if i in out],
    )


def _rounds(rng: Random, count: int) -> Iterator[int]:
    """Endless rounds over 0…count−1, each in a new order."""
    while True:
        yield from rng.sample(range(count), count)


def _list_around(
    rng: Random, lead: int, nearest: Sequence[Sequence[int]], longest: int
) -> list[int]:
    """The lead alone, or in random order with one to `longest` − 1 of its nearest neighbours."""
    if rng.random() < 0.5:
        return [lead]
    members = [lead, *nearest[lead][: rng.randint(1, longest - 1)]]
    return rng.sample(members, len(members))
