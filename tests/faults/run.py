"""Harm a plant again and again, then count what became of what was asked of it."""

import random
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from factory import invariants

from .plant import LEASE, WORK, Plant
from .rows import Row, held_shards

GRACE = 10.0  # seconds that an expired lease may wait for its reaper

COUNTS = """
SELECT coalesce(sum(j.count), 0)::int,
       coalesce(sum(made.number), 0)::int,
       coalesce(sum(made.number - made.ordinals), 0)::int,
       coalesce(sum(j.count - made.ordinals), 0)::int
FROM jobs j
CROSS JOIN LATERAL (
  SELECT count(*) AS number, count(DISTINCT ordinal) AS ordinals
  FROM samples s WHERE s.job_id = j.id
) made
WHERE j.id = ANY(:jobs)
"""
UNLIKE = "SELECT id, state, error FROM jobs WHERE id = ANY(:jobs) AND state <> 'succeeded'"
CONNECTIONS = """
SELECT count(*)::int FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
MOST_CONNECTIONS = 30  # web 10, each worker 6, each beat 3


@dataclass(frozen=True)
class Result:
    """What a row did and what was found afterwards; the last five should be zero or nothing."""

    row: str
    seed: int
    faults: int
    jobs: int
    planned: int
    stored: int
    worst_recovery: float
    doubled: int
    lost: int
    leaked: int
    unfinished: int
    wrong: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        return not (self.doubled or self.lost or self.leaked or self.unfinished or self.wrong)


def run_row(plant: Plant, row: Row, times: int, seed: int) -> Result:
    """Do a row's harm `times` times while jobs are at work, let all of them end, and count."""
    rng = random.Random(f"{row.name} {seed}")
    plant.accepted.clear()
    for number, extra in enumerate(row.extra):
        plant.add(f"{extra}-extra-{number}", extra)
    before = plant.proxy.lost
    with plant.busy():
        worst = max(_harm_once(plant, row, rng) for _ in range(times))
    plant.until("every job's end", lambda: not plant.unended())
    for number, extra in enumerate(row.extra):
        plant.drop(f"{extra}-extra-{number}")
    return _count(plant, row, seed, max(times, plant.proxy.lost - before), worst)


def _harm_once(plant: Plant, row: Row, rng: random.Random) -> float:
    """Do it at a moment of chance; returns the seconds from its beginning until all was at work
    again: every shard that was held has been finished or taken over, and something is stored."""
    time.sleep(rng.uniform(0, 1.5))
    plant.until("a shard at work", lambda: bool(held_shards(plant)))
    held, newest = held_shards(plant), _newest(plant)
    with ThreadPoolExecutor(1) as beside:
        harming = beside.submit(row.harm, plant, rng)
        took = plant.until(
            f"recovery from '{row.name}'",
            lambda: not _still_held(plant, held) and _newest(plant) != newest,
        )
        harming.result()
    return took


def _still_held(plant: Plant, before: dict[uuid.UUID, int]) -> bool:
    return bool(before.items() & held_shards(plant).items())


def _newest(plant: Plant) -> object:
    return plant.rows("SELECT max(id::text) FROM samples")


def _count(plant: Plant, row: Row, seed: int, faults: int, worst: float) -> Result:
    jobs = list(plant.accepted)
    ((planned, stored, doubled, lost),) = plant.rows(COUNTS, jobs=jobs)
    unlike = [
        f"job {id_} is {state}: {error}" for id_, state, error in plant.rows(UNLIKE, jobs=jobs)
    ]
    with plant.database.snapshot() as session:
        broken = invariants.violations(session, GRACE)
    ((there,),) = plant.rows("SELECT count(*)::int FROM jobs WHERE id = ANY(:jobs)", jobs=jobs)
    return Result(
        row=row.name,
        seed=seed,
        faults=faults,
        jobs=len(jobs),
        planned=planned,
        stored=stored,
        worst_recovery=round(worst, 1),
        doubled=doubled,
        lost=lost + (len(jobs) - there) * int(WORK["count"]),
        leaked=_leaked(plant),
        unfinished=len(unlike),
        wrong=(*unlike, *(f"{each.invariant} {each.row}: {each.detail}" for each in broken)),
    )


def _leaked(plant: Plant) -> int:
    """Processes that nobody keeps, and connections beyond what the members may have open."""
    plant_is_tidy = lambda: not plant.strangers()  # noqa: E731
    try:
        plant.until("the end of orphans", plant_is_tidy, 5 * LEASE)
    except AssertionError:
        return len(plant.strangers())
    ((connections,),) = plant.rows(CONNECTIONS)
    return max(0, connections - MOST_CONNECTIONS)


HEAD = ("row", "seed", "faults", "jobs", "planned", "stored", "doubled", "lost", "leaked")


def table(results: Sequence[Result]) -> str:
    """The results, a line for each row, and their sum."""
    lines = [(*HEAD, "broken", "worst recovery s")]
    lines += [
        (
            *(str(getattr(result, name)) for name in HEAD),
            str(len(result.wrong)),
            str(result.worst_recovery),
        )
        for result in results
    ]
    sums = [str(sum(getattr(result, name) for result in results)) for name in HEAD[2:]]
    broken = sum(len(result.wrong) for result in results)
    worst = max((result.worst_recovery for result in results), default=0.0)
    lines.append(("together", "", *sums, str(broken), str(worst)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    told = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    wrong = [f"{result.row}: {each}" for result in results for each in result.wrong]
    return "\n".join([*told, *wrong])
