"""What goes on right now: workers and how busy they are, what waits, how fast samples come."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from factory.ids import earliest_id
from factory.tables import Attempt, Job, Sample, Shard, Tally

BUSY_SECONDS = 600.0  # how far back a worker's load is looked at
SEEN_SECONDS = 6 * 3600.0  # a worker that began nothing for so long is not listed
MINUTES = 30  # of samples that are counted
DAYS = 14  # of verdicts that are counted


@dataclass(frozen=True)
class WorkerLoad:
    """One worker: what it runs on, the shards it holds now, and the share of the last ten
    minutes in which it worked on one."""

    name: str
    device: str
    holding: int
    busy: float
    seen_at: datetime


@dataclass(frozen=True)
class Queue:
    """What waits for a worker: shards of live jobs, and the samples in them."""

    shards: int
    samples: int


@dataclass(frozen=True)
class Day:
    """Verdicts of one day (UTC)."""

    day: date
    accepted: int
    verdicts: int


def workers(session: Session) -> Sequence[WorkerLoad]:
    """Workers that began something lately, the busiest first."""
    now = func.clock_timestamp()
    held = (Shard.state == "leased") & (Shard.lease_until > now) & (Shard.fence == Attempt.fence)
    ended = func.coalesce(Attempt.ended_at, case((held, now), else_=Attempt.started_at))
    since = now - func.make_interval(0, 0, 0, 0, 0, 0, BUSY_SECONDS)
    worked = func.extract("epoch", ended - func.greatest(Attempt.started_at, since))
    device = Attempt.environment["device"].astext
    statement = (
        select(Attempt.worker, func.max(device), func.count().filter(held))
        .add_columns(func.sum(func.greatest(worked, 0)), func.max(ended))
        .join(Shard, Shard.id == Attempt.shard_id)
        .where(Attempt.id > earliest_id(SEEN_SECONDS))
        .group_by(Attempt.worker)
    )
    found = [
        WorkerLoad(name, on or "", holding, min(1.0, float(seconds) / BUSY_SECONDS), seen)
        for name, on, holding, seconds, seen in session.execute(statement)
    ]
    return sorted(found, key=lambda worker: (-worker.holding, -worker.busy, worker.name))


def queue(session: Session) -> Queue:
    """What no worker has begun yet."""
    waiting = (
        select(func.count(), func.coalesce(func.sum(Shard.stop - Shard.start), 0))
        .join(Job, Job.id == Shard.job_id)
        .where(Job.ended_at.is_(None), Shard.state == "pending", Job.kind == "generate")
    )
    return Queue(*session.execute(waiting).one())


def samples_by_minute(session: Session) -> Sequence[int]:
    """Samples made in each of the last minutes, the oldest first."""
    ago = func.floor(func.extract("epoch", func.clock_timestamp() - Sample.created_at) / 60)
    statement = (
        select(ago, func.count())
        .where(Sample.id > earliest_id(60 * MINUTES), Sample.origin == "synthetic")
        .group_by(ago)
    )
    counted = {int(minutes): number for minutes, number in session.execute(statement)}
    return [counted.get(minutes, 0) for minutes in reversed(range(MINUTES))]


def acceptance(session: Session) -> Sequence[Day]:
    """Live verdicts of each of the last days, the oldest first."""
    today = datetime.now(UTC).date()
    first = (today - timedelta(days=DAYS)).isoformat()
    day, verdict = Tally.facts["day"].astext, Tally.facts["verdict"].astext
    statement = (
        select(day, verdict, func.sum(Tally.number))
        .where(Tally.subject == "review", day > first)
        .group_by(day, verdict)
    )
    counted = {(on, said): int(n) for on, said, n in session.execute(statement)}
    days = [today - timedelta(days=back) for back in reversed(range(DAYS))]
    return [
        Day(
            day,
            counted.get((day.isoformat(), "accept"), 0),
            sum(number for (on, _), number in counted.items() if on == day.isoformat()),
        )
        for day in days
    ]
