"""Harm a plant again and again, then count what became of what was asked of it."""

import os
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from factory import invariants

from .plant import LEASE, WORK, Plant, Standing
from .rows import Row

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


@dataclass(frozen=True)
class Result:
    """What a row did and what was found afterwards: from `doubled` to `wrong` there should be
    nothing. `seconds`: how long it took; `load`: of the machine in its last minute."""

    row: str
    seed: int
    faults: int
    jobs: int
    planned: int
    stored: int
    worst_takeover: float
    worst_recovery: float
    doubled: int
    lost: int
    unfinished: int
    leaks: tuple[str, ...]
    wrong: tuple[str, ...]
    seconds: float = 0.0
    load: float = 0.0

    @property
    def leaked(self) -> int:
        return len(self.leaks)

    @property
    def is_clean(self) -> bool:
        return not (self.doubled or self.lost or self.leaked or self.unfinished or self.wrong)


def run_row(plant: Plant, row: Row, times: int, seed: int) -> Result:
    """Do a row's harm `times` times while jobs are at work, let all of them end, and count."""
    rng = random.Random(f"{row.name} {seed}")
    plant.accepted.clear()
    plant.complaints.clear()
    ((jobs_before,),) = plant.rows("SELECT count(*)::int FROM jobs")
    lost = plant.proxy.lost
    with row.around(plant):
        with plant.busy():
            took = [_harm_once(plant, row, rng) for _ in range(times)]
        plant.until("every job's end", lambda: not plant.unended())
    faults = max(times, plant.proxy.lost - lost)
    worst = max(takeover for takeover, _ in took), max(recovery for _, recovery in took)
    return _count(plant, row, seed, faults, worst, jobs_before)


def _harm_once(plant: Plant, row: Row, rng: random.Random) -> tuple[float, float]:
    """Do it at a moment of chance; returns the seconds until what was held was taken over, and
    until all was at work again."""
    time.sleep(rng.uniform(0, 1.5))
    plant.until("work for several workers", plant.is_ready_for_harm)
    row.harm(plant, rng)
    before = _struck(plant)
    plant.until(f"takeover after '{row.name}'", lambda: plant.is_taken_over(before))
    takeover = time.monotonic() - before.at
    plant.until(f"recovery from '{row.name}'", lambda: plant.is_at_work(before))
    recovery = time.monotonic() - before.at
    for thread in (plant.ending, plant.waiting):
        if thread is not None:
            thread.join()
    plant.ending = plant.waiting = None
    return takeover, recovery


def _struck(plant: Plant) -> Standing:
    assert plant.struck is not None
    return plant.struck


def _count(
    plant: Plant,
    row: Row,
    seed: int,
    faults: int,
    worst: tuple[float, float],
    jobs_before: int,
) -> Result:
    jobs = list(plant.accepted)
    ((planned, stored, doubled, lost),) = plant.rows(COUNTS, jobs=jobs)
    unlike = [
        f"job {id_} is {state}: {error}" for id_, state, error in plant.rows(UNLIKE, jobs=jobs)
    ]
    with plant.database.snapshot() as session:
        broken = invariants.violations(session, GRACE)
    ((there,),) = plant.rows("SELECT count(*)::int FROM jobs WHERE id = ANY(:jobs)", jobs=jobs)
    ((jobs_now,),) = plant.rows("SELECT count(*)::int FROM jobs")
    unlike += [f"{jobs_now - jobs_before} jobs are stored"] * (jobs_now - jobs_before != len(jobs))
    unlike += plant.complaints
    return Result(
        row=row.name,
        seed=seed,
        faults=faults,
        jobs=len(jobs),
        planned=planned,
        stored=stored,
        worst_takeover=round(worst[0], 1),
        worst_recovery=round(worst[1], 1),
        doubled=doubled,
        lost=lost + (len(jobs) - there) * int(WORK["count"]),
        unfinished=len(unlike),
        leaks=tuple(plant.leaks(5 * LEASE)),
        wrong=(*unlike, *(f"{each.invariant} {each.row}: {each.detail}" for each in broken)),
    )


LEGEND = """\
lost, doubled: samples of accepted jobs. leaked: processes and database connections that no living
part of the factory knows. broken: invariants A to F, jobs that did not succeed, jobs stored beside
the accepted ones. takeover: from the harm (from its end, where it lasts) until every shard that was
held then is done, or held again under a lease that is renewed; where the API was killed, also until
the job that was being sent is accepted, which the client repeats. recovery: until then, and another
shard was leased, a sample stored, and the API answers: with what starting again what died takes.
Three workers, of which two were at work before each harm, started again by a process that has
imported their libraries. Test lease: {lease:g} s. load: the machine's, the mean of the row's last
minute, on {cores} cores."""
HEAD = ("row", "seed", "faults", "jobs", "planned", "stored", "doubled", "lost", "leaked")


def table(results: Sequence[Result]) -> str:
    """The results, a line for each row, and their sum."""
    lines = [(*HEAD, "broken", "worst takeover s", "worst recovery s", "took s", "load")]
    lines += [
        (
            *(str(getattr(result, name)) for name in HEAD),
            str(len(result.wrong)),
            str(result.worst_takeover),
            str(result.worst_recovery),
            f"{result.seconds:.0f}",
            f"{result.load:.0f}",
        )
        for result in results
    ]
    sums = [str(sum(getattr(result, name) for result in results)) for name in HEAD[2:]]
    broken = sum(len(result.wrong) for result in results)
    worst = (
        str(max((getattr(result, name) for result in results), default=0.0))
        for name in ("worst_takeover", "worst_recovery")
    )
    took = f"{sum(result.seconds for result in results):.0f}"
    load = f"{max((result.load for result in results), default=0):.0f}"
    lines.append(("together", "", *sums, str(broken), *worst, took, load))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    told = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    ]
    wrong = [
        f"{result.row}: {each}" for result in results for each in (*result.wrong, *result.leaks)
    ]
    return "\n".join([*told, *wrong, LEGEND.format(lease=LEASE, cores=os.cpu_count())])
