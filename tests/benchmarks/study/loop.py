"""Part 3: five rounds of making, reviewing and fitting anew, with an audit and a window."""

from collections.abc import Iterator
from random import Random
from typing import Any

from tests.benchmarks.study.levers import LEVERS, Case, Reviewed, unguided
from tests.benchmarks.study.measures import share
from tests.benchmarks.study.rejections import measured
from tests.benchmarks.study.reviewers import IN_ROUNDS, Refuses, Reviewer
from tests.benchmarks.study.study import Study
from tests.benchmarks.testbed import TASKS, Grammar

AUDIT = 0.2  # share of a round that is made without feedback
WINDOW = 2  # rounds whose verdicts count
NOISE = 10_000
LAST = 2  # rounds that figures are taken from
IN_LOOP = ("none", "temperature .5", "negatives", "centred negatives", "verdict head", "gate")

Round = dict[str, list[str]]  # texts made with feedback, and the audit's


def loop(study: Study) -> Iterator[dict[str, Any]]:
    """A row for every reviewer, task and lever."""
    for reviewer in IN_ROUNDS:
        for task in study.tasks:
            yield from under(study, TASKS[task], reviewer)


def under(study: Study, task: Grammar, reviewer: Reviewer) -> list[dict[str, Any]]:
    """A row for every lever under one reviewer."""
    refuses = reviewer.of_task(task)
    runs = {
        lever: [_rounds(study, task, reviewer, refuses, lever, seed) for seed in study.seeds]
        for lever in IN_LOOP
    }
    last = study.sizes.rounds
    made = {
        lever: [[text for turn in rounds[-LAST:] for text in turn["guided"]] for rounds in seeds]
        for lever, seeds in runs.items()
    }
    kept = {
        lever: [[text for text in texts if not refuses(text, last)] for texts in sets]
        for lever, sets in made.items()
    }
    fewest = min(len(texts) for sets in kept.values() for texts in sets)
    return [
        {
            "task": task.name,
            "reviewer": reviewer.name,
            "regime": reviewer.regime,
            "lever": lever,
            **measured(task, made[lever], kept[lever], refuses, fewest, last),
            "audit_rejected": _rejected(runs[lever], refuses, "audit", last),
            "by_round": _by_round(runs[lever], refuses),
            "favourite_by_round": _share_by_round(runs[lever], task),
        }
        for lever in IN_LOOP
    ]


def _rounds(
    study: Study, task: Grammar, reviewer: Reviewer, refuses: Refuses, lever: str, seed: int
) -> list[Round]:
    """What one seed's rounds made, with one lever under one reviewer."""
    sizes, regime = study.sizes, reviewer.regime

    def make() -> list[Round]:
        bed = study.bed(task, regime, seed)
        audit = round(AUDIT * sizes.reviews)
        plain = unguided(reviewer.nucleus)
        seen: list[list[Reviewed]] = []
        rounds: list[Round] = []
        for turn in range(1, sizes.rounds + 1):
            noise = NOISE + 100 * seed + turn
            evidence = [one for some in seen[-WINDOW:] for one in some]
            case = Case(bed, plain, evidence, Random(noise))
            setting = LEVERS[lever](case) if evidence else plain
            guided = bed.texts(sizes.reviews - audit, noise, setting)
            audited = bed.texts(audit, noise + 50, plain)
            seen.append([Reviewed(text, refuses(text, turn)) for text in guided + audited])
            rounds.append({"guided": guided, "audit": audited})
        return rounds

    key = {
        "loop": reviewer.name,
        "nucleus": reviewer.nucleus,
        "lever": lever,
        "window": WINDOW,
        "audit": AUDIT,
    }
    key |= {"reviews": sizes.reviews, "rounds": sizes.rounds}
    made: list[Round] = study.store.get(study.key(task, regime, seed) | key, make)
    return made


def _rejected(runs: list[list[Round]], refuses: Refuses, part: str, last: int) -> dict[str, float]:
    texts = [[text for turn in rounds[-LAST:] for text in turn[part]] for rounds in runs]
    return share([[refuses(text, last) for text in row] for row in texts]).as_json()


def _by_round(runs: list[list[Round]], refuses: Refuses) -> list[dict[str, float]]:
    """The share of guided texts refused in each round."""
    return [
        share(
            [[refuses(text, turn) for text in rounds[turn - 1]["guided"]] for rounds in runs]
        ).as_json()
        for turn in range(1, len(runs[0]) + 1)
    ]


def _share_by_round(runs: list[list[Round]], task: Grammar) -> list[dict[str, float]]:
    """The favourite theme's share of guided texts in each round: what the reviewer who changes
    his mind stops refusing in round TURN, and should get back."""
    return [
        share(
            [
                [task.theme(text) == task.favourite for text in rounds[turn]["guided"]]
                for rounds in runs
            ]
        ).as_json()
        for turn in range(len(runs[0]))
    ]
