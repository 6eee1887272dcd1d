"""Part 4: whether calibration finds what a whole grid finds, with a fraction of its samples.

Both choose by what the factory can see: yield as a sweep measures it, where a text is plausible
when the unguided expert finds it as likely as real ones. Both choices then write with other
experts and other noise, and are compared by the parser.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np

from factory import search
from factory.search import Choice
from tests.benchmarks.study.beds import Bed, Setting, real_samples
from tests.benchmarks.study.measures import Estimate, marks, share
from tests.benchmarks.study.part import Cell, Part, Row
from tests.benchmarks.study.rules import steer
from tests.benchmarks.study.study import TUNING_SEED, Study, setting_key
from tests.benchmarks.testbed import TASKS, Grammar
from workers.metrics.fit import floor
from workers.metrics.likelihood import Scored, text_log_probs
from workers.metrics.measure import Array
from workers.metrics.points import Scorer, Tried, mark

SPACE: search.Space = {
    "gamma": (-1.0, -0.5, 0.0, 0.5),
    "eta": (0.0, 0.5),
    "nucleus": (0.9, 0.95, 1.0),
    "temperature": (0.8, 1.0, 1.3),
}
PLAIN: Choice = {"gamma": 0.0, "eta": 0.0, "nucleus": 0.95, "temperature": 1.0}
AIM = 0.95  # of the grid's yield
HELD_OUT, HELD_OUT_SEED = 30, 991  # real samples that no expert was trained on
GRID_NOISE, NOISE, LAST_NOISE = 5_000, 6_000, 7_000

Weighed = Sequence[tuple[str, float]]


def calibrate(study: Study, cell: Cell) -> list[Row]:
    """One row: what the grid and calibration chose, and what both are worth."""
    task, regime = TASKS[cell[0]], cell[1]
    key = study.key(task, regime, TUNING_SEED) | {"calibrate": SPACE, "held_out": HELD_OUT}
    key |= {name: getattr(study.sizes, name) for name in ("grid", "points", "count")}
    chosen = study.store.get(key, partial(_chosen, study, task, regime))
    found = {name: _worth(study, task, regime, chosen[name]) for name in ("grid", "calibrated")}
    plain = _worth(study, task, regime, PLAIN)
    ratio = found["calibrated"].value / found["grid"].value if found["grid"].value else 1.0
    return [
        {
            "task": task.name,
            "regime": regime,
            "grid": setting_key(steer(**chosen["grid"])),
            "calibrated": setting_key(steer(**chosen["calibrated"])),
            "samples": chosen["samples"],
            "grid_samples": chosen["grid_samples"],
            "share_of_samples": round(chosen["samples"] / chosen["grid_samples"], 3),
            "plain_yield": plain.as_json(),
            "grid_yield": found["grid"].as_json(),
            "calibrated_yield": found["calibrated"].as_json(),
            "ratio": round(ratio, 3),
            "within": ratio >= AIM,
        }
    ]


CALIBRATION = Part(lambda study: [(t, r) for r in study.regimes for t in study.tasks], calibrate)


def _chosen(study: Study, task: Grammar, regime: str) -> dict[str, Any]:
    """The best choice of the grid, and that of successive halving over some of its points."""
    bed, sizes = study.bed(task, regime, TUNING_SEED), study.sizes
    floor = _floor(bed)
    points = search.grid(SPACE)

    def score(choice: Choice, made: Weighed) -> float:
        rows = [Tried((0, i), text, "generated", weight) for i, (text, weight) in enumerate(made)]
        return Scorer(mark(rows, floor), bed.real).useful(np.arange(len(rows)))

    on_grid = {
        at: score(choice, bed.weighed(sizes.grid, GRID_NOISE, steer(**choice)))
        for at, choice in enumerate(points)
    }
    drawn = search.draw(SPACE, sizes.points - 1, seed=TUNING_SEED)
    tried = [PLAIN, *(choice for choice in drawn if choice != PLAIN)]
    made: dict[int, list[tuple[str, float]]] = {at: [] for at in range(len(tried))}

    def measure(positions: Sequence[int], more: int) -> Mapping[int, float | None]:
        for at in positions:
            made[at] += bed.weighed(more, NOISE + len(made[at]), steer(**tried[at]))
        return {at: score(tried[at], made[at]) for at in positions}

    found = search.search(len(tried), search.halving(len(tried), sizes.count), measure)
    return {
        "grid": points[search.best(on_grid, 1)[0]],
        "calibrated": tried[found.ranking[0]],
        "samples": found.samples,
        "grid_samples": len(points) * sizes.grid,
    }


def _floor(bed: Bed) -> float:
    """What 95 % of real samples reach under the expert, nats a token, as a probe finds it."""
    texts = [*bed.real, *bed.task.real_samples(HELD_OUT, seed=HELD_OUT_SEED)]
    expert, base = _means(bed, "expert", texts), _means(bed, "base", texts)
    seen = np.arange(len(texts)) < len(bed.real)
    gains = expert - base
    return floor(expert, list(seen), float(gains[seen].mean() - gains[~seen].mean()))


def _means(bed: Bed, model: Literal["expert", "base"], texts: Sequence[str]) -> Array:
    """(N,) each text's mean log-probability a token."""
    prompt = bed.layout.prompt_ids()
    scored = [Scored(prompt, bed.layout.text_ids(text)) for text in texts]
    return np.array([float(each.mean()) for each in text_log_probs(bed.pair, model, scored)])


def _worth(study: Study, task: Grammar, regime: str, choice: Choice) -> Estimate:
    """The yield of a choice with experts and noise that it was not chosen on."""
    setting: Setting = steer(**choice)
    sets = [
        study.texts(task, regime, seed, study.sizes.samples, LAST_NOISE + seed, setting)
        for seed in study.seeds
    ]
    return share([marks(task, texts, real_samples(task)).useful for texts in sets])
