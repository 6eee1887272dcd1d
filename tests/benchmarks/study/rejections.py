"""Part 2: what rejections do, once. First of all whether negatives can mean anything here."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from random import Random
from typing import Any

from factory.guidance import Guidance
from tests.benchmarks.study.beds import Kept, Setting, real_samples
from tests.benchmarks.study.levers import LEVERS, Case, Reviewed, constants, unguided
from tests.benchmarks.study.measures import distinct3, marks, share
from tests.benchmarks.study.part import Cell, Part, Row
from tests.benchmarks.study.reviewers import ONCE, Refuses, Reviewer
from tests.benchmarks.study.study import Study
from tests.benchmarks.testbed import TASKS, Grammar

REJECTED = 3
REVIEWED_NOISE, GUIDED_NOISE = 3_000, 4_000
ETAS = (1.0, 2.0)


def three_rejections(study: Study, cell: Cell) -> list[Row]:
    """The favourite theme's share without and with three rejected samples of it."""
    return [_three(study, TASKS[cell[0]], eta) for eta in ETAS]


def _three(study: Study, task: Grammar, eta: float) -> dict[str, Any]:
    count = study.sizes.samples
    plain = [
        study.texts(task, "well fit", seed, count, GUIDED_NOISE + seed, Setting())
        for seed in study.seeds
    ]
    guided = [_away_from_three(study, task, seed, eta) for seed in study.seeds]
    before, after = (
        share([[task.theme(text) == task.favourite for text in texts] for texts in sets])
        for sets in (plain, guided)
    )
    return {
        "task": task.name,
        "theme": task.favourite,
        "eta": eta,
        "without": before.as_json(),
        "with_three": after.as_json(),
        "times": round(before.value / after.value, 1) if after.value else None,
        "at_least": round(before.low / after.high, 1),
        "coherence": share([marks(task, texts, ()).coherent for texts in guided]).as_json(),
    }


def _away_from_three(study: Study, task: Grammar, seed: int, eta: float) -> list[str]:
    """Texts made with three rejected samples of the theme in the negative prompt."""
    sizes = study.sizes
    first = study.texts(task, "well fit", seed, 2 * sizes.reviews, REVIEWED_NOISE + seed, Setting())
    rejected = [text for text in first if task.theme(text) == task.favourite][:REJECTED]
    setting = Setting(Guidance(eta=eta), pick=lambda rng, made: (rejected, ()))
    key = study.key(task, "well fit", seed)
    key |= {"three": rejected, "eta": eta, "count": sizes.samples}
    made: list[str] = study.store.get(
        key,
        lambda: study.bed(task, "well fit", seed).texts(
            sizes.samples, GUIDED_NOISE + seed, setting
        ),
    )
    return made


def levers(study: Study, cell: Cell) -> list[Row]:
    """A row for every lever under one reviewer."""
    reviewer, task = next(r for r in ONCE if r.name == cell[0]), TASKS[cell[1]]
    refuses = reviewer.of_task(task)
    made = {
        lever: [_guided(study, task, reviewer, refuses, lever, seed) for seed in study.seeds]
        for lever in LEVERS
    }
    fewest = fewest_kept(made, lambda text: refuses(text, 1))
    return [
        {
            "task": task.name,
            "reviewer": reviewer.name,
            "regime": reviewer.regime,
            "lever": lever,
            **measured(task, made[lever], study.sizes.samples, lambda t: refuses(t, 1), fewest),
        }
        for lever in LEVERS
    ]


THREE = Part(lambda study: [(task,) for task in study.tasks], three_rejections)
ONCE_PART = Part(lambda study: [(r.name, task) for r in ONCE for task in study.tasks], levers)


def _guided(
    study: Study, task: Grammar, reviewer: Reviewer, refuses: Refuses, lever: str, seed: int
) -> Kept:
    sizes, regime = study.sizes, reviewer.regime

    def make() -> dict[str, Any]:
        bed = study.bed(task, regime, seed)
        noise = REVIEWED_NOISE + seed
        plain = unguided(reviewer.nucleus)
        first = study.texts(task, regime, seed, 2 * sizes.reviews, noise, plain)
        reviewed = [Reviewed(text, refuses(text, 1)) for text in first]
        setting = LEVERS[lever](Case(bed, plain, reviewed, Random(seed)))
        return asdict(bed.kept(sizes.samples, GUIDED_NOISE + seed, setting))

    key = {"reviewer": reviewer.name, "nucleus": reviewer.nucleus, "lever": lever}
    key |= {"reviews": 2 * sizes.reviews, "samples": sizes.samples, "constants": constants(lever)}
    return Kept(**study.store.get(study.key(task, regime, seed) | key, make))


def fewest_kept(made: Mapping[str, Sequence[Kept]], refused: Callable[[str], bool]) -> int:
    """How many accepted texts every lever has with every seed: as many are compared."""
    return min(
        sum(not refused(text) for text in one.texts) for sets in made.values() for one in sets
    )


def measured(
    task: Grammar, made: Sequence[Kept], asked: int, refused: Callable[[str], bool], fewest: int
) -> dict[str, Any]:
    """The measures of `asked` texts of each seed under a reviewer.

    Those that a lever let pass are judged; yield is a share of those asked for; distinct-3 is
    that of the first `fewest` accepted ones; written: texts written for each one asked for.
    """
    sets = [one.texts for one in made]
    found = [marks(task, texts, real_samples(task)) for texts in sets]
    bad = [[refused(text) for text in texts] for texts in sets]
    useful = [
        [use and not no for use, no in zip(m.useful, row, strict=True)]
        + [False] * (asked - len(row))
        for m, row in zip(found, bad, strict=True)
    ]
    accepted = [
        [text for text, no in zip(texts, row, strict=True) if not no][:fewest]
        for texts, row in zip(sets, bad, strict=True)
    ]
    return {
        "rejected": share(bad).as_json(),
        "theme_share": share([m.favourite for m in found]).as_json(),
        "coherence": share([m.coherent for m in found]).as_json(),
        "near_copies": share([m.near for m in found]).as_json(),
        "distinct3_kept": distinct3(accepted).as_json() if fewest > 1 else None,
        "kept_compared": fewest,
        "yield": share(useful).as_json(),
        "written": round(sum(one.written for one in made) / asked / len(made), 3),
    }
