"""A small base: a Llama pretrained on lists of samples that share a topic, the demo's or others."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from factory.local.demo.corpus import document
from factory.local.demo.grammar import PROMPT, vocabulary
from workers import layout
from workers.layout import Layout
from workers.training import recipe
from workers.training.fit import Batch, fit, flat_then_linear, seeded
from workers.training.recipe import Progress, Trained
from workers.training.tokenizer import word_tokenizer


@dataclass(frozen=True)
class Corpus:
    """What a base is pretrained on.

    name        says which documents these are: another name is another recipe
    prompt      what stands before each text of a document
    vocabulary  every word and mark of texts and prompt
    document    draws the texts of one document
    """

    name: str
    prompt: str
    vocabulary: Sequence[str]
    document: Callable[[Random], Sequence[str]]


DEMO = Corpus("demo-1", PROMPT, vocabulary(), document)


@dataclass(frozen=True)
class BaseConfig:
    """Size and training of the base. The defaults take some 75 s of one CPU thread."""

    seed: int = 1
    steps: int = 740
    batch: int = 4
    context: int = 256
    layers: int = 3
    hidden: int = 128
    feed_forward: int = 320
    heads: int = 8
    learning_rate: float = 5e-3


def train_base(
    config: BaseConfig, out: Path, on_progress: Progress | None = None, corpus: Corpus = DEMO
) -> Trained:
    """Pretrain a base on a corpus and save it with its tokenizer in `out`.

    Returns at once when `out` holds the same recipe's result. One seed, one model: the same
    software and number of threads give the same weights.
    """
    plan = {"kind": "base", "layout": layout.NAME, "corpus": corpus.name, **asdict(config)}
    found = recipe.finished(out, plan)
    if found is not None:
        return found
    tokenizer = word_tokenizer(corpus.vocabulary, config.context)
    with seeded(config.seed):
        model = _new_model(config, tokenizer)
        loss = fit(
            model,
            _batches(config, corpus, Layout(tokenizer, corpus.prompt)),
            steps=config.steps,
            optimizer=torch.optim.AdamW(
                model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98)
            ),
            schedule=flat_then_linear(config.steps),
            on_progress=on_progress,
        )
    with recipe.publishing(out) as draft:
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        recipe.write(draft, plan, loss, None)
    return Trained(out, loss, None, cached=False)


def _new_model(config: BaseConfig, tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden,
            intermediate_size=config.feed_forward,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.context,
            initializer_range=0.04,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _batches(config: BaseConfig, corpus: Corpus, lists: Layout) -> Iterator[Batch]:
    """`steps` batches of packed documents, (batch, context) each."""
    stream = _stream(Random(config.seed), corpus, lists)
    for _ in range(config.steps):
        ids = torch.tensor([next(stream) for _ in range(config.batch * config.context)])
        ids = ids.view(config.batch, config.context)
        yield Batch(ids, torch.ones_like(ids), ids)


def _stream(rng: Random, corpus: Corpus, lists: Layout) -> Iterator[int]:
    while True:
        yield from lists.list_ids(corpus.document(rng))
