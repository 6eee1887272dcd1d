"""Part 3: five rounds of making, reviewing and fitting anew, with an audit and a window."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import Any

from tests.benchmarks.study.beds import Kept
from tests.benchmarks.study.levers import LEVERS, Case, Reviewed, constants, unguided
from tests.benchmarks.study.measures import share
from tests.benchmarks.study.part import Cell, Part, Row
from tests.benchmarks.study.rejections import fewest_kept, measured
from tests.benchmarks.study.reviewers import IN_ROUNDS, Refuses, Reviewer
from tests.benchmarks.study.study import Study
from tests.benchmarks.testbed import TASKS, Grammar

AUDIT = 0.2  # share of a round that is made without feedback
WINDOW = 2  # rounds whose verdicts count
NOISE = 10_000
LAST = 2  # rounds that figures are taken from
LEFT_OUT = ("centred negatives, η = 2",)  # in the loop, to save time
COSTLY = "A − R adapters"  # eight fine-tunes a fit: in the loop under one reviewer only
COSTLY_UNDER = "theme or incoherence"


@dataclass(frozen=True)
class Round:
    """What one round made with feedback, and its audit."""

    guided: Kept
    audit: list[str]


def tried(reviewer: str) -> list[str]:
    """The levers that are tried under a reviewer."""
    out = LEFT_OUT if reviewer == COSTLY_UNDER else (*LEFT_OUT, COSTLY)
    return [lever for lever in LEVERS if lever not in out]


def loop(study: Study, cell: Cell) -> list[Row]:
    """A row for every lever under one reviewer."""
    reviewer, task = next(r for r in IN_ROUNDS if r.name == cell[0]), TASKS[cell[1]]
    refuses = reviewer.of_task(task)
    runs = {
        lever: [_rounds(study, task, reviewer, refuses, lever, seed) for seed in study.seeds]
        for lever in tried(reviewer.name)
    }
    last = study.sizes.rounds
    made = {lever: [_together(rounds[-LAST:]) for rounds in seeds] for lever, seeds in runs.items()}
    asked = LAST * (study.sizes.reviews - _audit(study))
    fewest = fewest_kept(made, lambda text: refuses(text, last))
    return [
        {
            "task": task.name,
            "reviewer": reviewer.name,
            "regime": reviewer.regime,
            "lever": lever,
            **measured(task, made[lever], asked, lambda text: refuses(text, last), fewest),
            "audit_rejected": _audited(runs[lever], refuses, last),
            "by_round": _by_round(runs[lever], refuses),
            "favourite_by_round": _by_round(
                runs[lever], lambda text, _: task.theme(text) == task.favourite
            ),
        }
        for lever in runs
    ]


LOOP = Part(lambda study: [(r.name, task) for r in IN_ROUNDS for task in study.tasks], loop)


def _rounds(
    study: Study, task: Grammar, reviewer: Reviewer, refuses: Refuses, lever: str, seed: int
) -> list[Round]:
    """What one seed's rounds made, with one lever under one reviewer."""
    sizes, regime, audit = study.sizes, reviewer.regime, _audit(study)

    def make() -> list[dict[str, Any]]:
        bed = study.bed(task, regime, seed)
        plain = unguided(reviewer.nucleus)
        seen: list[list[Reviewed]] = []
        rounds: list[Round] = []
        for turn in range(1, sizes.rounds + 1):
            noise = NOISE + 100 * seed + turn
            evidence = [one for some in seen[-WINDOW:] for one in some]
            case = Case(bed, plain, evidence, Random(noise))
            setting = LEVERS[lever](case) if evidence else plain
            guided = bed.kept(sizes.reviews - audit, noise, setting)
            audited = bed.texts(audit, noise + 50, plain)
            seen.append([Reviewed(t, refuses(t, turn)) for t in guided.texts + audited])
            rounds.append(Round(guided, audited))
        return [asdict(round_) for round_ in rounds]

    key = {
        "loop": reviewer.name,
        "nucleus": reviewer.nucleus,
        "lever": lever,
        "window": WINDOW,
        "audit": AUDIT,
        "constants": constants(lever),
    }
    key |= {"reviews": sizes.reviews, "rounds": sizes.rounds}
    made = study.store.get(study.key(task, regime, seed) | key, make)
    return [Round(Kept(**one["guided"]), one["audit"]) for one in made]


def _audit(study: Study) -> int:
    return round(AUDIT * study.sizes.reviews)


def _together(rounds: Sequence[Round]) -> Kept:
    texts = [text for one in rounds for text in one.guided.texts]
    return Kept(texts, sum(one.guided.written for one in rounds))


def _audited(runs: Sequence[Sequence[Round]], refuses: Refuses, last: int) -> dict[str, float]:
    """The share of the last audits that is refused."""
    texts = [[text for one in rounds[-LAST:] for text in one.audit] for rounds in runs]
    return share([[refuses(text, last) for text in row] for row in texts]).as_json()


def _by_round(runs: Sequence[Sequence[Round]], holds: Refuses) -> list[dict[str, float]]:
    """The share of guided texts of which this holds, in each round."""
    return [
        share(
            [[holds(text, turn) for text in rounds[turn - 1].guided.texts] for rounds in runs]
        ).as_json()
        for turn in range(1, len(runs[0]) + 1)
    ]
