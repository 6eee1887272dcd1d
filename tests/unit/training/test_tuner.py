"""Fine-tunes that begin at an expert's adapter, any number of times, on one copy of the base."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from factory.errors import ModelError, NumericalError
from factory.local.demo.corpus import real_samples
from factory.local.demo.grammar import PROMPT
from workers.layout import Layout
from workers.levers.tuning import fit_adapters
from workers.models.lora import LowRank, adapter_of
from workers.training.base import BaseConfig, train_base
from workers.training.expert import ExpertConfig, train_expert
from workers.training.tuner import Tuner

SMALL = BaseConfig(steps=12, batch=2, context=64, layers=1, hidden=32, feed_forward=48, heads=4)
QUICK = ExpertConfig(steps=6, batch=4, learning_rate=5e-3, context=64)
REAL = real_samples(40, seed=3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("models")
    base = train_base(SMALL, root / "base").path
    return base, train_expert(base, REAL, root / "expert", prompt=PROMPT, config=QUICK).path


def tuner_of(folders: tuple[Path, Path], config: ExpertConfig = QUICK, **on: Any) -> Tuner:
    layout = Layout(AutoTokenizer.from_pretrained(folders[0]), PROMPT)
    return Tuner.load(*folders, layout, config, **on)


def same(one: dict[str, LowRank], two: dict[str, LowRank]) -> bool:
    return one.keys() == two.keys() and all(
        torch.equal(a.down, b.down) and torch.equal(a.up, b.up)
        for a, b in zip(one.values(), two.values(), strict=True)
    )


def test_every_tune_begins_at_the_expert(folders: tuple[Path, Path]) -> None:
    tuner = tuner_of(folders)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folders[0]), folders[1])
    expert = tuner.adapter()
    assert same(expert, adapter_of(model))
    made = []
    for texts in (REAL[:12], REAL[12:24], REAL[:12]):
        tuner.tune(texts)
        made.append(tuner.adapter())
    assert same(made[0], made[2])
    assert not same(made[0], made[1])
    assert not same(made[0], expert)
    again = tuner_of(folders)
    again.tune(REAL[:12])
    assert same(again.adapter(), made[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_texts_it_was_tuned_on_get_likelier(folders: tuple[Path, Path], dtype: torch.dtype) -> None:
    config = ExpertConfig(steps=20, batch=8, learning_rate=5e-3, context=64)
    tuner = tuner_of(folders, config, dtype=dtype)
    before = list(tuner.log_probs(REAL[:12]))
    tuner.tune(REAL[:12])
    after = list(tuner.log_probs(REAL[:12]))
    assert sum(after) > sum(before) + 0.5
    assert {x.dtype for part in tuner.adapter().values() for x in vars(part).values()} == {dtype}


def test_a_texts_score_is_the_mean_over_its_tokens_and_its_end(
    folders: tuple[Path, Path],
) -> None:
    tuner = tuner_of(folders)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folders[0]), folders[1])
    layout = tuner.lists.layout
    for text, found in zip(REAL[:6], tuner.log_probs(REAL[:6]), strict=True):
        ids = layout.list_ids([text])
        own = len(layout.text_ids(text)) + 1
        with torch.no_grad():
            log_p = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = [float(log_p[i - 1, ids[i]]) for i in range(len(ids) - own, len(ids))]
        assert found == pytest.approx(sum(expected) / own, abs=1e-4)


def test_what_cannot_be_loaded_or_trained_is_said(folders: tuple[Path, Path]) -> None:
    layout = Layout(AutoTokenizer.from_pretrained(folders[0]), PROMPT)
    with pytest.raises(ModelError, match="cannot be loaded"):
        Tuner.load(folders[0], folders[0], layout, QUICK)
    with pytest.raises(NumericalError):
        tuner_of(folders, ExpertConfig(steps=9, learning_rate=1e9, context=64)).tune(REAL)


def test_too_few_verdicts_load_nothing() -> None:
    def load() -> Tuner:
        raise AssertionError("loaded")

    found = fit_adapters(load, ["a"] * 19, [True] * 10 + [False] * 9)
    assert found.tensors is None
    assert found.refused == (
        "10 accepted and 10 rejected samples are needed; the window holds 10 and 9"
    )
