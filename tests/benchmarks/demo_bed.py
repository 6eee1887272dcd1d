"""The demo's loop without its services, over many seeds: does the recipe hold?

Trains the demo's pair for each training seed, then for each sampling seed makes round-1, control
and round-2 with the demo's settings, and prints what steering changed, with negatives run joint
and, with `--kv concatenated`, apart. One thread; some 90 s a training seed and 10 s a sampling
seed.

    python tests/benchmarks/demo_bed.py --training-seeds 1 2 --seeds 10 11 12 13 14
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from random import Random

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from factory.guidance import Guidance, Sampling
from factory.local.demo.corpus import real_samples
from factory.local.demo.grammar import PROMPT
from factory.local.demo.measures import measure
from factory.local.demo.report import in_words
from factory.local.demo.reviewer import REJECTED_THEME, review
from workers.decoding import DocumentCache, ModelPair, Request, SteerDecoder
from workers.layout import Layout
from workers.training.base import BaseConfig, train_base
from workers.training.expert import train_expert

NEGATIVES = 3
FIRST, SECOND = 120, 320  # guided samples of round-1, and of control and round-2
SAMPLING = Sampling(max_new_tokens=80)
REAL = real_samples(300, seed=1)


@dataclass
class Bed:
    """A trained pair and how its texts are laid out."""

    pair: ModelPair
    layout: Layout

    def texts(
        self, count: int, seed: int, rejected: Sequence[str] = (), eta: float = 0, kv: str = "joint"
    ) -> list[str]:
        """`count` texts; steered away from three random rejected ones each, if there are any."""
        documents = DocumentCache() if kv == "concatenated" else None
        decoder = SteerDecoder(self.pair, Guidance(eta=eta), SAMPLING, documents=documents)
        rows = decoder.run(self._requests(count, seed, rejected))
        return [self.layout.text_of(row.token_ids) for row in sorted(rows, key=lambda r: r.index)]

    def _requests(self, count: int, seed: int, rejected: Sequence[str]) -> Iterator[Request]:
        rng = Random(seed)
        budget = self.pair.max_positions - SAMPLING.max_new_tokens
        for ordinal in range(count):
            chosen = rng.sample(rejected, NEGATIVES) if rejected else []
            context = self.layout.context(chosen, budget)
            yield Request(
                prompt_ids=self.layout.prompt_ids(),
                negative_ids=context.ids if context.kept else (),
                negative_spans=context.spans,
                seed=seed * 1_000_000 + ordinal,
            )


def train(folder: Path, seed: int) -> Bed:
    """The demo's pair from one training seed."""
    base, expert = folder / str(seed) / "base", folder / str(seed) / "expert"
    if not expert.exists():
        train_base(BaseConfig(seed=seed), base)
        train_expert(base, REAL, expert, prompt=PROMPT)
    pair = ModelPair.load(base=str(base), expert=str(expert), device="cpu", dtype="float32")
    return Bed(pair, Layout(AutoTokenizer.from_pretrained(base), PROMPT))


def compare(bed: Bed, seed: int, eta: float, kv: str) -> list[str]:
    """Cells for one sampling seed: rejections, then control → round-2 of every measure."""
    first = bed.texts(FIRST, 2 * seed)
    rejected = [text for text in first if review(text).verdict == "reject"]
    before = measure(bed.texts(SECOND, 2 * seed + 1), REAL, REJECTED_THEME)
    after = measure(bed.texts(SECOND, 2 * seed + 1, rejected, eta, kv), REAL, REJECTED_THEME)
    keys = ("theme_share", "coherence", "distinct3", "yield", "copies")
    changes = [f"{in_words(before, key)} → {in_words(after, key)}" for key in keys]
    return [str(len(rejected)), *changes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--training-seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12, 13, 14])
    parser.add_argument("--etas", type=float, nargs="+", default=[0.5])
    parser.add_argument("--kv", nargs="+", default=["joint"], choices=["joint", "concatenated"])
    parser.add_argument("--models", type=Path, help="where trained pairs are kept")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    columns = (
        "trained",
        "seed",
        "η",
        "kv",
        "rejected",
        "theme",
        "coherence",
        "distinct-3",
        "yield",
        "copies",
    )
    table = Table(*columns, title=f"control → round-2, rejecting “{REJECTED_THEME}”")
    with tempfile.TemporaryDirectory() as folder:
        for training_seed in wanted.training_seeds:
            bed = train(wanted.models or Path(folder), training_seed)
            for seed, eta, kv in product(wanted.seeds, wanted.etas, wanted.kv):
                cells = compare(bed, seed, eta, kv)
                table.add_row(str(training_seed), str(seed), str(eta), kv, *cells)
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
