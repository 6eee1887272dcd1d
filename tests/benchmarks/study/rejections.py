"""Part 2: what rejections do, once. First of all whether negatives can mean anything here."""

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from factory.guidance import Guidance
from tests.benchmarks.study.beds import Setting, real_samples
from tests.benchmarks.study.levers import LEVERS, Case, Reviewed, unguided
from tests.benchmarks.study.measures import distinct3, marks, share
from tests.benchmarks.study.reviewers import ONCE, Refuses, Reviewer
from tests.benchmarks.study.study import Study
from tests.benchmarks.testbed import TASKS, Grammar

REJECTED = 3
REVIEWED_NOISE, GUIDED_NOISE = 3_000, 4_000
ETAS = (1.0, 2.0)


def three_rejections(study: Study) -> Iterator[dict[str, Any]]:
    """For each task the favourite theme's share without and with three rejected samples of it."""
    for task in study.tasks:
        for eta in ETAS:
            yield _three(study, TASKS[task], eta)


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
    first = study.texts(task, "well fit", seed, 3 * sizes.reviews, REVIEWED_NOISE + seed, Setting())
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


def levers(study: Study) -> Iterator[dict[str, Any]]:
    """A row for every reviewer, task and lever."""
    for reviewer in ONCE:
        for task in study.tasks:
            yield from under(study, TASKS[task], reviewer)


def under(study: Study, task: Grammar, reviewer: Reviewer) -> list[dict[str, Any]]:
    """A row for every lever under one reviewer."""
    refuses = reviewer.of_task(task)
    made = {
        lever: [_guided(study, task, reviewer, refuses, lever, seed) for seed in study.seeds]
        for lever in LEVERS
    }
    kept = {
        lever: [[text for text in texts if not refuses(text, 1)] for texts in sets]
        for lever, sets in made.items()
    }
    fewest = min(len(texts) for sets in kept.values() for texts in sets)
    return [
        {
            "task": task.name,
            "reviewer": reviewer.name,
            "regime": reviewer.regime,
            "lever": lever,
            **measured(task, made[lever], kept[lever], refuses, fewest),
        }
        for lever in LEVERS
    ]


def _guided(
    study: Study, task: Grammar, reviewer: Reviewer, refuses: Refuses, lever: str, seed: int
) -> list[str]:
    sizes, regime = study.sizes, reviewer.regime

    def make() -> list[str]:
        bed = study.bed(task, regime, seed)
        noise = REVIEWED_NOISE + seed
        plain = unguided(reviewer.nucleus)
        first = study.texts(task, regime, seed, 3 * sizes.reviews, noise, plain)
        reviewed = [Reviewed(text, refuses(text, 1)) for text in first]
        setting = LEVERS[lever](Case(bed, plain, reviewed, Random(seed)))
        return bed.texts(sizes.samples, GUIDED_NOISE + seed, setting)

    key = {"reviewer": reviewer.name, "nucleus": reviewer.nucleus, "lever": lever}
    key |= {"reviews": 3 * sizes.reviews, "samples": sizes.samples}
    made: list[str] = study.store.get(study.key(task, regime, seed) | key, make)
    return made


def measured(
    task: Grammar,
    sets: Sequence[Sequence[str]],
    kept: Sequence[Sequence[str]],
    refuses: Refuses,
    fewest: int,
    turn: int = 1,
) -> dict[str, Any]:
    """The measures of texts under a reviewer; distinct-3 of the first `fewest` kept ones."""
    found = [marks(task, texts, real_samples(task)) for texts in sets]
    refused = [[refuses(text, turn) for text in texts] for texts in sets]
    useful = [
        [use and not no for use, no in zip(m.useful, row, strict=True)]
        for m, row in zip(found, refused, strict=True)
    ]
    variety = distinct3([texts[:fewest] for texts in kept]).as_json() if fewest > 1 else None
    return {
        "rejected": share(refused).as_json(),
        "theme_share": share([m.favourite for m in found]).as_json(),
        "coherence": share([m.coherent for m in found]).as_json(),
        "distinct3_kept": variety,
        "kept_compared": fewest,
        "yield": share(useful).as_json(),
    }
