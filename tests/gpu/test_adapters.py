"""Adapters beside the expert's on a real card: recorded steps, the CPU's tokens, refits, tuning."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from factory.guidance import Guidance, Sampling
from tests.unit.decoding.test_adapters import CAP, WEIGHT, mixed, two_adapters
from workers.decoding import ModelPair, SteerDecoder
from workers.layout import Layout
from workers.levers.adapters import AdaptersTerm
from workers.training.expert import ExpertConfig
from workers.training.tokenizer import word_tokenizer
from workers.training.tuner import Tuner

from .conftest import Pairs

Folders = Callable[[str], Path]
GUIDANCE = Guidance(gamma=0.2, eta=0.5)


def decode(pair: ModelPair, *terms: AdaptersTerm) -> dict[int, tuple[int, ...]]:
    sampling = Sampling(max_new_tokens=20)
    decoder = SteerDecoder(pair, GUIDANCE, sampling, 7, trace=True, terms=terms)
    return {c.index: c.token_ids for c in decoder.run(mixed(16))}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_recorded_steps_give_the_tokens_of_plain_ones(
    family: str, pairs: Pairs, tmp_path: Path
) -> None:
    """Also after a refit, and again with what was attached first."""
    graphed, eager = pairs(family, "lora"), pairs(family, "lora", graphs=False)
    first, second = (
        AdaptersTerm(two_adapters(family, seed, tmp_path).adapters, WEIGHT, CAP) for seed in (4, 6)
    )
    for terms in ((first,), (first,), (second,), (), (first,)):
        assert decode(graphed, *terms) == decode(eager, *terms)
    assert decode(graphed, first) != decode(graphed, second)


def test_the_card_gives_the_tokens_of_the_cpu(
    pairs: Pairs, folders: Folders, tmp_path: Path
) -> None:
    """Float32 on both: tokens differ only where two scores tie to within rounding."""
    term = AdaptersTerm(two_adapters("llama", 4, tmp_path).adapters, WEIGHT, CAP)
    ours = decode(pairs("llama", "lora"), term)
    theirs = decode(ModelPair.load(folders("llama") / "base", folders("llama") / "lora"), term)
    assert sum(ours[i] == tokens for i, tokens in theirs.items()) >= 15


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_experts_adapter_is_tuned_on_the_card(
    dtype: torch.dtype, folders: Folders, cuda: torch.device
) -> None:
    folder = folders("llama")
    words = [f"w{i}" for i in range(50)]
    layout = Layout(word_tokenizer(words, 96), "w0 :")
    texts = [f"w1 w2 w{i} w3" for i in range(4, 24)]
    config = ExpertConfig(steps=20, batch=8, learning_rate=5e-3, context=64)
    tuner = Tuner.load(folder / "base", folder / "lora", layout, config, str(cuda), dtype)
    before = sum(tuner.log_probs(texts))
    tuner.tune(texts)
    assert sum(tuner.log_probs(texts)) > before + 5
    assert all(part.down.device.type == "cpu" for part in tuner.adapter().values())
