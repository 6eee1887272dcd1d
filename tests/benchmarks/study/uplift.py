"""Part 0: how much a context helps a model foretell a sample. Where it does not, negatives have
nothing to push from, and no claim on η means anything."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from factory.intervals import Z
from tests.benchmarks.study.beds import real_samples
from tests.benchmarks.study.measures import FRESH_SEED, vectors
from tests.benchmarks.study.part import Cell, Part, Row
from tests.benchmarks.study.study import Study
from tests.benchmarks.testbed import TASKS, Grammar
from workers.layout import Layout

SAMPLES = 100  # texts that no model has seen
NEIGHBOURS = 3


def uplift(study: Study, cell: Cell) -> list[Row]:
    """A row for a task's base and for one expert of each regime."""
    task, seed = TASKS[cell[0]], study.seeds[0]
    rows = []
    for model in ("base", *study.regimes):
        regime = study.regimes[0] if model == "base" else model
        key = study.key(task, regime, seed) | {"uplift of": model, "with": NEIGHBOURS}
        rows.append(study.store.get(key, partial(_row, study, task, model)))
    return rows


CONTEXT = Part(lambda study: [(task,) for task in study.tasks], uplift)


def _row(study: Study, task: Grammar, model: str) -> dict[str, Any]:
    base = path = study.models.base(task).path
    if model != "base":
        path = study.models.expert(task, model, study.seeds[0]).path
    gain = _gains(task, base, path)
    return {
        "task": task.name,
        "model": model,
        "nearest": gain(_nearest(task)),
        "itself": gain([[text] * NEIGHBOURS for text in _texts(task)]),
    }


def _gains(
    task: Grammar, base: Path, model: Path
) -> Callable[[Sequence[Sequence[str]]], dict[str, float]]:
    """contexts → mean gain of log-probability per token, in nats, with its interval."""
    layout = Layout(AutoTokenizer.from_pretrained(base), task.prompt)
    loaded = AutoModelForCausalLM.from_pretrained(model).eval()
    alone = [_mean_log_prob(loaded, layout, (), text) for text in _texts(task)]

    def gain(contexts: Sequence[Sequence[str]]) -> dict[str, float]:
        pairs = zip(contexts, _texts(task), alone, strict=True)
        gains = torch.tensor([_mean_log_prob(loaded, layout, c, t) - a for c, t, a in pairs])
        half = Z * float(gains.std()) / len(gains) ** 0.5
        value = float(gains.mean())
        return {
            "value": round(value, 4),
            "low": round(value - half, 4),
            "high": round(value + half, 4),
        }

    return gain


@torch.inference_mode()
def _mean_log_prob(
    model: PreTrainedModel, layout: Layout, context: Sequence[str], text: str
) -> float:
    """Mean log-probability of a text's tokens and eos after a context, nats a token."""
    ids = torch.tensor([layout.list_ids([*context, text])])
    own = len(layout.text_ids(text)) + 1
    logits = model(input_ids=ids).logits[0, -own - 1 : -1].float()
    found = torch.log_softmax(logits, dim=-1).gather(1, ids[0, -own:, None])
    return float(found.mean())


def _texts(task: Grammar) -> list[str]:
    return task.real_samples(SAMPLES, seed=FRESH_SEED)


def _nearest(task: Grammar) -> list[list[str]]:
    """For every text its nearest real samples."""
    real = real_samples(task)
    order = (-vectors(_texts(task)) @ vectors(real).T).argsort(axis=1)[:, :NEIGHBOURS]
    return [[real[i] for i in row] for row in order]
