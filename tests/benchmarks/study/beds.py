"""The study's models: one base a task, experts in three regimes, and what they write."""

import fcntl
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from transformers import AutoTokenizer

from factory.guidance import Guidance, Sampling
from tests.benchmarks.testbed import Grammar
from workers.decoding import ModelPair, Request, SteerDecoder, Term
from workers.layout import Layout
from workers.training.base import BaseConfig, Corpus, train_base
from workers.training.expert import ExpertConfig, train_expert
from workers.training.recipe import Trained

REAL_SAMPLES = 300
BASE = BaseConfig(steps=900)
LONGER = {"questions": 1.8}  # times the steps of a base: which thing belongs where is learned late
REGIMES = {
    "underfit": ExpertConfig(method="lora", steps=8, batch=8, context=128, learning_rate=1e-3),
    "well fit": ExpertConfig(method="lora", steps=40, batch=8, context=128, learning_rate=2e-3),
    "memorising": ExpertConfig(
        method="full", steps=200, batch=16, context=64, longest_list=2, learning_rate=2e-3
    ),
}
TRIES = 4  # times that a text is written at most where a lever refuses it
GROUP = 8  # samples that share their negatives, as in the factory's jobs
UNSTEERED = Guidance(eta=0)
ROOM = Sampling(max_new_tokens=48)

Pick = Callable[[Random, Sequence[str]], tuple[Sequence[str], Sequence[str]]]
"""(rng, texts made so far) → negatives and their centre, for the next group of samples."""


def no_negatives(rng: Random, made: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Nothing to steer away from."""
    return (), ()


@dataclass(frozen=True)
class Setting:
    """How texts are made: everything but seeds.

    pick   chooses what each group of samples is steered away from
    terms  learned levers that steer too
    keep   refuses texts once they are made; None: none
    slots  samples made at a time: fewer where what is made steers what comes next
    """

    guidance: Guidance = UNSTEERED
    sampling: Sampling = ROOM
    pick: Pick = no_negatives
    terms: tuple[Term, ...] = ()
    keep: Callable[[str], bool] | None = None
    slots: int = 128


@dataclass(frozen=True)
class Kept:
    """Texts that a lever lets pass, and how many were written for them."""

    texts: list[str]
    written: int


@dataclass
class Bed:
    """One expert of one task, with its base.

    base, expert  their folders
    """

    task: Grammar
    base: Path
    expert: Path
    pair: ModelPair
    layout: Layout
    real: Sequence[str]

    def texts(self, count: int, seed: int, setting: Setting) -> list[str]:
        """`count` texts in order, whatever `keep` says of them."""
        return [text for text, _ in self.weighed(count, seed, setting)]

    def weighed(self, count: int, seed: int, setting: Setting) -> list[tuple[str, float]]:
        """`count` texts in order, with the mean log-probability of their tokens under the
        unguided expert: nats a token, −inf for an empty text."""
        return self._run(range(count), seed, setting)

    def kept(self, count: int, seed: int, setting: Setting) -> Kept:
        """What `keep` lets pass of `count` texts, each made anew TRIES times at most."""
        places: list[str | None] = [None] * count
        written = 0
        for again in range(TRIES):
            empty = [place for place, text in enumerate(places) if text is None]
            written += len(empty)
            fresh = self._run([place + again * count for place in empty], seed, setting)
            for place, (text, _) in zip(empty, fresh, strict=True):
                if setting.keep is None or setting.keep(text):
                    places[place] = text
        return Kept([text for text in places if text is not None], written)

    def _run(self, ordinals: Sequence[int], seed: int, setting: Setting) -> list[tuple[str, float]]:
        made: dict[int, str] = {}
        weights: dict[int, float] = {}
        decoder = SteerDecoder(
            self.pair,
            setting.guidance,
            setting.sampling,
            setting.slots,
            trace=True,
            terms=setting.terms,
        )
        for row in decoder.run(self._requests(ordinals, seed, setting, made)):
            made[row.index] = self.layout.text_of(row.token_ids)
            assert row.trace is not None
            expert = row.trace.expert
            weights[row.index] = float(expert.mean()) if len(expert) else -math.inf
        return [(made[index], weights[index]) for index in range(len(ordinals))]

    def _requests(
        self, ordinals: Sequence[int], seed: int, setting: Setting, made: dict[int, str]
    ) -> Iterator[Request]:
        """Pulled lazily, so that `pick` sees what is made by then."""
        budget = self.pair.max_positions - setting.sampling.max_new_tokens
        for start in range(0, len(ordinals), GROUP):
            rng = Random(f"{seed}/{ordinals[start]}")
            chosen, center = setting.pick(rng, list(made.values()))
            negative = self.layout.context(chosen, budget)
            middle = self.layout.context(center, budget)
            for ordinal in ordinals[start : start + GROUP]:
                yield Request(
                    prompt_ids=self.layout.prompt_ids(),
                    negative_ids=negative.ids if negative.kept else (),
                    negative_spans=negative.spans,
                    center_ids=middle.ids if negative.kept and middle.kept else (),
                    center_spans=middle.spans if negative.kept else (),
                    seed=seed * 1_000_000 + ordinal,
                )


@dataclass
class Models:
    """Trained models in a folder, and those that are loaded."""

    folder: Path
    config: BaseConfig = BASE
    _loaded: dict[tuple[str, str, int], Bed] = field(default_factory=dict)

    def plan(self, task: Grammar, regime: str, seed: int) -> dict[str, Any]:
        """What an expert is made from."""
        corpus = _corpus(task)
        return {
            "base": asdict(self._base_config(task)) | {"corpus": corpus.name},
            "expert": asdict(_config(regime, seed)),
            "real": real_samples(task),
        }

    def is_trained(self, task: Grammar, regime: str, seed: int) -> bool:
        """Whether an expert's folder is there."""
        return self._folder(task, regime, seed).exists()

    def base(self, task: Grammar) -> Trained:
        """The base of a task, trained if it is not there."""
        folder = self.folder / task.name / "base"
        with _alone(folder):
            return train_base(self._base_config(task), folder, corpus=_corpus(task))

    def expert(self, task: Grammar, regime: str, seed: int) -> Trained:
        """An expert fine-tuned on the real samples, trained if it is not there."""
        base, folder = self.base(task).path, self._folder(task, regime, seed)
        config, real = _config(regime, seed), real_samples(task)
        with _alone(folder):
            return train_expert(base, real, folder, prompt=task.prompt, config=config)

    def bed(self, task: Grammar, regime: str, seed: int) -> Bed:
        """The expert, ready to write."""
        key = task.name, regime, seed
        if key not in self._loaded:
            base, expert = self.base(task).path, self.expert(task, regime, seed).path
            pair = ModelPair.load(base=str(base), expert=str(expert), dtype="float32")
            layout = Layout(AutoTokenizer.from_pretrained(base), task.prompt)
            self._loaded = {key: Bed(task, base, expert, pair, layout, real_samples(task))}
        return self._loaded[key]

    def _base_config(self, task: Grammar) -> BaseConfig:
        return replace(self.config, steps=round(LONGER.get(task.name, 1) * self.config.steps))

    def _folder(self, task: Grammar, regime: str, seed: int) -> Path:
        return self.folder / task.name / f"{regime.replace(' ', '-')}-{seed}"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process is at this folder, and keep others away."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _corpus(task: Grammar) -> Corpus:
    return Corpus(f"{task.name}-2", task.prompt, task.vocabulary(), task.document)


def _config(regime: str, seed: int) -> ExpertConfig:
    return replace(REGIMES[regime], seed=seed)


def real_samples(task: Grammar) -> list[str]:
    """The dataset's real samples."""
    return task.real_samples(REAL_SAMPLES, seed=1)
