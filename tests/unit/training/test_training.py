"""Training for real, in miniature: a few steps of models small enough for a unit test."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
)

from factory.errors import Invalid, ModelError, NumericalError
from factory.local.demo.corpus import real_samples
from factory.local.demo.grammar import PROMPT, vocabulary
from workers.layout import Layout
from workers.training.base import BaseConfig, train_base
from workers.training.expert import ExpertConfig, train_expert
from workers.training.neighbours import by_vectors, by_words
from workers.training.tokenizer import word_tokenizer

SMALL = BaseConfig(steps=12, batch=2, context=64, layers=1, hidden=32, feed_forward=48, heads=4)
QUICK = ExpertConfig(steps=6, batch=4, learning_rate=5e-3, context=64)
REAL = real_samples(40, seed=3)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_base(SMALL, tmp_path_factory.mktemp("models") / "base").path


def weights(folder: Path) -> bytes:
    return next(folder.glob("*.safetensors")).read_bytes()


def loss_of(model: torch.nn.Module, lists: Layout, texts: list[str]) -> float:
    rows = [torch.tensor([lists.list_ids([text])]) for text in texts]
    with torch.no_grad():
        return sum(float(model(input_ids=row, labels=row).loss) for row in rows) / len(rows)


def test_a_base_learns_and_loads_as_any_model_does(tmp_path: Path) -> None:
    losses: list[float] = []
    calls: list[tuple[int, int]] = []

    def note(done: int, planned: int, loss: float) -> None:
        calls.append((done, planned))
        losses.append(loss)

    trained = train_base(SMALL, tmp_path / "base", note)
    assert calls == [(step, 12) for step in range(1, 13)]
    assert sum(losses[-3:]) / 3 < losses[0] - 0.3
    assert losses[0] == pytest.approx(math.log(len(vocabulary()) + 4), abs=0.3)
    assert trained.heldout_loss is None
    model = AutoModelForCausalLM.from_pretrained(trained.path)
    tokenizer = AutoTokenizer.from_pretrained(trained.path)
    assert len(tokenizer) == model.config.vocab_size
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    )
    lists = Layout(tokenizer, PROMPT)
    for text in REAL:
        assert lists.text_of(lists.text_ids(text)) == text
        assert tokenizer.unk_token_id not in lists.text_ids(text)


def test_the_same_seed_trains_the_same_base_whatever_ran_before(base: Path, tmp_path: Path) -> None:
    torch.rand(5)
    assert weights(train_base(SMALL, tmp_path / "again").path) == weights(base)


def test_training_leaves_the_noise_of_others_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    train_base(SMALL, tmp_path / "base")
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_an_expert_fits_the_samples_better_than_its_base(
    base: Path, tmp_path: Path, method: str
) -> None:
    config = ExpertConfig(method=method, steps=20, batch=8, learning_rate=5e-3, context=64)  # type: ignore[arg-type]
    trained = train_expert(base, REAL, tmp_path / "expert", prompt=PROMPT, config=config)
    model = AutoModelForCausalLM.from_pretrained(base)
    lists = Layout(AutoTokenizer.from_pretrained(base), PROMPT)
    before = loss_of(model, lists, REAL)
    expert = (
        PeftModel.from_pretrained(model, trained.path)
        if method == "lora"
        else AutoModelForCausalLM.from_pretrained(trained.path)
    )
    assert loss_of(expert, lists, REAL) < before - 0.1
    assert trained.heldout_loss is not None
    assert 0 < trained.heldout_loss < before + 1


def test_a_finished_recipe_is_not_trained_again(base: Path, tmp_path: Path) -> None:
    def refuse(done: int, planned: int, loss: float) -> None:
        raise AssertionError("trained again")

    out = tmp_path / "expert"
    first = train_expert(base, REAL, out, prompt=PROMPT, config=QUICK)
    again = train_expert(base, REAL, out, prompt=PROMPT, config=QUICK, on_progress=refuse)
    assert (first.cached, again.cached) == (False, True)
    assert (again.loss, again.heldout_loss) == (first.loss, first.heldout_loss)
    assert train_base(SMALL, base, refuse).cached


def test_another_recipe_takes_the_place_of_the_old(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "expert"
    train_expert(base, REAL, out, prompt=PROMPT, config=QUICK)
    old = weights(out)
    other = train_expert(base, REAL[1:], out, prompt=PROMPT, config=QUICK)
    assert not other.cached
    assert weights(out) != old


def test_a_training_that_is_stopped_leaves_nothing_behind(base: Path, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(done: int, planned: int, loss: float) -> None:
        if done == 2:
            raise Stopped

    out = tmp_path / "models" / "expert"
    with pytest.raises(Stopped):
        train_expert(base, REAL, out, prompt=PROMPT, config=QUICK, on_progress=stop)
    assert not out.exists()
    assert not train_expert(base, REAL, out, prompt=PROMPT, config=QUICK).cached
    assert [path.name for path in out.parent.iterdir()] == ["expert"]


def test_a_folder_with_an_unreadable_recipe_is_trained_anew(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "expert"
    train_expert(base, REAL, out, prompt=PROMPT, config=QUICK)
    (out / "recipe.json").write_text('{"digest": "')
    assert not train_expert(base, REAL, out, prompt=PROMPT, config=QUICK).cached
    assert json.loads((out / "recipe.json").read_text())["recipe"]["prompt"] == PROMPT


def test_a_gpt2_with_few_positions_is_fine_tuned_on_long_samples(tmp_path: Path) -> None:
    tokenizer = word_tokenizer(vocabulary(), 32)
    tokenizer.pad_token = None
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=32, n_embd=16, n_layer=1, n_head=2, bos_token_id=1
    )
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    texts = [" ".join(REAL[i : i + 3]) for i in range(0, 30, 3)]
    out = tmp_path / "expert"
    trained = train_expert(tmp_path / "base", texts, out, prompt="", config=QUICK)
    assert math.isfinite(trained.loss)


def test_too_few_samples_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="at least 8 samples, the dataset has 7"):
        train_expert(base, REAL[:7], tmp_path / "expert", prompt=PROMPT)


def test_a_folder_without_safe_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match="no safetensors weights"):
        train_expert(tmp_path, REAL, tmp_path / "expert", prompt=PROMPT)


def test_broken_weights_are_refused(base: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    (tmp_path / "config.json").write_text((base / "config.json").read_text())
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="cannot be loaded"):
        train_expert(tmp_path, REAL, tmp_path / "expert", prompt=PROMPT)


def test_a_loss_that_explodes_is_an_error(base: Path, tmp_path: Path) -> None:
    wild = ExpertConfig(method="full", steps=20, batch=4, learning_rate=1e20, context=64)
    with pytest.raises(NumericalError, match="lower the learning rate"):
        train_expert(base, REAL, tmp_path / "expert", prompt=PROMPT, config=wild)


def test_neighbours_by_words_come_nearest_first() -> None:
    texts = ["coral reefs grow", "leaf litter grows", "coral reefs rise", "", "kelp grow"]
    assert by_words(texts, 1)[0] == [2]
    assert [sorted([i, *others]) for i, others in enumerate(by_words(texts, 9))] == [
        [0, 1, 2, 3, 4]
    ] * 5


def test_neighbours_by_vectors_come_nearest_first() -> None:
    vectors = np.array([[1.0, 0], [0, 1], [2, 1], [0, 0]])
    assert by_vectors(vectors, 3) == [[2, 1, 3], [2, 0, 3], [0, 1, 3], [0, 1, 2]]
    assert by_vectors(vectors[:1], 3) == [[]]


@given(st.integers(2, 600), st.integers(1, 8))
@settings(max_examples=20)
def test_neighbours_are_those_of_a_full_sort(size: int, count: int) -> None:
    vectors = np.random.default_rng(size).normal(size=(size, 5))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -np.inf)
    expected = np.argsort(-likeness, axis=1)[:, : min(count, size - 1)]
    assert by_vectors(vectors, count) == expected.tolist()
