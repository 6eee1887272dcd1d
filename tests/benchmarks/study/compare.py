"""Part 1: the rules side by side, in three tasks and three regimes.

Every rule is tuned on one expert, over at most six settings of equally many samples, for yield;
the best setting then writes with other experts and other noise, and only that is reported.
"""

from typing import Any

from tests.benchmarks.study.beds import Setting, real_samples
from tests.benchmarks.study.measures import Estimate, marks, summary, told_from_real
from tests.benchmarks.study.part import Cell, Part, Row
from tests.benchmarks.study.rules import RULES
from tests.benchmarks.study.study import TUNING_SEED, Study, setting_key
from tests.benchmarks.testbed import TASKS, Grammar

TUNING_NOISE, NOISE = 1_000, 2_000


def compare(study: Study, cell: Cell) -> list[Row]:
    """A row for every rule in one task and regime. Raises OutOfTime."""
    task, regime = cell
    return [_row(study, TASKS[task], regime, rule) for rule in RULES]


RULES_PART = Part(lambda study: [(t, r) for r in study.regimes for t in study.tasks], compare)


def _row(study: Study, task: Grammar, regime: str, rule: str) -> dict[str, Any]:
    tried = [(_tuning_yield(study, task, regime, s), s) for s in RULES[rule]]
    best, setting = max(tried, key=lambda pair: pair[0])
    sets = [
        study.texts(task, regime, seed, study.sizes.samples, NOISE + seed, setting)
        for seed in study.seeds
    ]
    found = _measures(study, task, sets)
    return {
        "task": task.name,
        "regime": regime,
        "rule": rule,
        "setting": setting_key(setting),
        "settings_tried": len(tried),
        "tuning_yield": round(best, 4),
        **{name: estimate.as_json() for name, estimate in found.items()},
    }


def _tuning_yield(study: Study, task: Grammar, regime: str, setting: Setting) -> float:
    texts = study.texts(task, regime, TUNING_SEED, study.sizes.tuning, TUNING_NOISE, setting)
    useful = marks(task, texts, real_samples(task)).useful
    return sum(useful) / len(useful)


def _measures(study: Study, task: Grammar, sets: list[list[str]]) -> dict[str, Estimate]:
    found = summary(task, sets, real_samples(task))
    return found | {"auroc": told_from_real(task, sets)}


def verdicts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the rows say of calibrated STEER, cell by cell.

    beaten_by       rules better on both coherence and distinct-3, beyond the intervals
    against_nucleus whether its yield is above, level with, or below tuned nucleus sampling's
    """
    cells: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["task"], row["regime"]), {})[row["rule"]] = row
    found = []
    for (task, regime), by_rule in cells.items():
        ours = by_rule["steer"]
        beaten = [
            rule
            for rule, row in by_rule.items()
            if rule != "steer" and all(_beats(row, ours, m) for m in ("coherence", "distinct3"))
        ]
        ahead = ours["yield"]["value"] - by_rule["nucleus"]["yield"]["value"]
        beyond = _beats(ours, by_rule["nucleus"], "yield") or _beats(
            by_rule["nucleus"], ours, "yield"
        )
        found.append(
            {
                "task": task,
                "regime": regime,
                "beaten_by": beaten,
                "yield_ahead_of_nucleus": round(ahead, 4),
                "beyond_interval": beyond,
            }
        )
    return {
        "cells": found,
        "not_beaten": sum(not cell["beaten_by"] for cell in found),
        "ahead_of_nucleus": sum(cell["yield_ahead_of_nucleus"] > 0 for cell in found),
        "ahead_beyond_interval": sum(
            cell["yield_ahead_of_nucleus"] > 0 and cell["beyond_interval"] for cell in found
        ),
        "behind_beyond_interval": sum(
            cell["yield_ahead_of_nucleus"] < 0 and cell["beyond_interval"] for cell in found
        ),
    }


def _beats(row: dict[str, Any], other: dict[str, Any], measure: str) -> bool:
    return Estimate(**row[measure]).beats(Estimate(**other[measure]))
