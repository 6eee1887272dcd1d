"""Shards: leased by one worker at a time, on the database's clock.

    pending → leased → done        (every ordinal is stored or has failed)
              leased → pending     (handed back, or the lease ran out)
              leased → dead        (its workers died too often)

Each claim raises the shard's fence; every later write names it, so that a worker whose lease
was given to another can no longer write.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, exists, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from factory import outbox
from factory.errors import LeaseLost
from factory.ids import new_id
from factory.tables import Attempt, Failure, Job, Outbox, Sample, Shard

LEASE = (Shard.id, Shard.job_id, Shard.start, Shard.stop, Shard.fence)
BEGUN = 16  # shards that a worker looks at before it takes a new one
UNHEARD = "was not heard of before its lease ran out."
CUT_OFF = "was cut off from the database, and its lease ran out."


@dataclass(frozen=True)
class Lease:
    """What a worker holds: this shard of this job, under this fence."""

    shard_id: uuid.UUID
    job_id: uuid.UUID
    start: int
    stop: int
    fence: int


def fence(session: Session, shard_id: uuid.UUID) -> int:
    """How often the shard was claimed so far."""
    return session.scalar(select(Shard.fence).where(Shard.id == shard_id)) or 0


def begun(session: Session, task: str) -> Sequence[uuid.UUID]:
    """Shards for this task that lost their worker or were handed back, the oldest first, at most
    BEGUN: they go before those that nobody has begun."""
    owed = exists().where(Outbox.task == task, Outbox.key == Shard.id)
    waiting = Shard.state == "pending", Shard.fence > 0, owed, _may_run()
    return session.scalars(select(Shard.id).where(*waiting).order_by(Shard.id).limit(BEGUN)).all()


def claim(
    session: Session,
    shard_id: uuid.UUID,
    worker: str,
    seconds: float,
    *,
    before: int | None = None,
) -> Lease | None:
    """Lease a pending shard of a live job; None when there is nothing to do.

    `before` is the fence that this worker read first: a claim whose answer was lost is then
    known as its own when it is called again.

    The shard's wake-up is settled, unless it was owed anew meanwhile (the job was resumed, or
    the shard handed back): from here on the lease makes sure that it is not forgotten.
    """
    task = _task(session, shard_id)
    owed = outbox.version(session, task, shard_id)
    statement = (
        update(Shard)
        .where(Shard.id == shard_id, Shard.state == "pending", _may_run())
        .values(
            state="leased",
            fence=Shard.fence + 1,
            lease_until=_from_now(seconds),
            worker=worker,
            error=None,
        )
        .returning(*LEASE)
    )
    row = session.execute(statement).one_or_none()
    if row is not None:
        _start_job(session, row.job_id)
    outbox.settle(session, task, shard_id, owed)
    if row is None and before is not None:
        mine = Shard.state == "leased", Shard.worker == worker, Shard.fence == before + 1
        row = session.execute(select(*LEASE).where(Shard.id == shard_id, *mine)).one_or_none()
    return Lease(*row) if row else None


def begin_attempt(
    session: Session, lease: Lease, worker: str, environment: dict[str, Any]
) -> uuid.UUID:
    """Note what this lease runs on; samples point at it. Returns the attempt's id.

    Called again for the same lease it returns the same one.
    """
    values = {
        "id": new_id(),
        "shard_id": lease.shard_id,
        "fence": lease.fence,
        "worker": worker,
        "environment": environment,
    }
    statement = insert(Attempt).values(values)
    once = statement.on_conflict_do_update(
        index_elements=[Attempt.shard_id, Attempt.fence], set_={"environment": environment}
    )
    return session.scalars(once.returning(Attempt.id)).one()


def renew(session: Session, lease: Lease, seconds: float) -> str:
    """Prolong the lease and hold the shard's row for this transaction; returns the job's state.

    Raises LeaseLost when another worker has the shard. Postgres ends the transaction when
    nothing is heard in it for as long as the lease: a worker that is frozen here would else
    hold the row against the reaper.
    """
    limit = f"{max(1, round(seconds * 1000))}ms"
    session.execute(select(func.set_config("idle_in_transaction_session_timeout", limit, True)))
    statement = (
        update(Shard).where(_held(lease)).values(lease_until=_from_now(seconds)).returning(Shard.id)
    )
    if session.scalar(statement) is None:
        raise LeaseLost(f"Shard {lease.shard_id} is no longer held under fence {lease.fence}.")
    return session.scalars(select(Job.state).where(Job.id == lease.job_id)).one()


def running(session: Session) -> int:
    """How many shards workers hold right now."""
    held = Shard.state == "leased", Shard.lease_until > func.clock_timestamp()
    return session.scalar(select(func.count()).where(*held)) or 0


def missing(session: Session, lease: Lease) -> Sequence[int]:
    """The shard's ordinals that are neither stored nor failed, in order."""
    wanted = range(lease.start, lease.stop)
    made: set[int] = set()
    for table in (Sample, Failure):
        rows = select(table.ordinal).where(
            table.job_id == lease.job_id, table.ordinal.between(lease.start, lease.stop - 1)
        )
        made.update(ordinal for ordinal in session.scalars(rows) if ordinal is not None)
    return [ordinal for ordinal in wanted if ordinal not in made]


def note_progress(session: Session, lease: Lease, progress: dict[str, Any]) -> None:
    """Keep how far a shard is that makes no samples."""
    session.execute(update(Shard).where(_held(lease)).values(progress=progress))


def finish(session: Session, lease: Lease) -> None:
    """Every ordinal is accounted for. Raises LeaseLost."""
    _end_lease(session, lease, state="done")


def hand_back(session: Session, lease: Lease) -> None:
    """Stop working on a shard that has more to do. Raises LeaseLost."""
    _end_lease(session, lease, state="pending")
    outbox.owe(session, _task(session, lease.shard_id), lease.shard_id)


def crash(session: Session, lease: Lease, error: str, attempts: int) -> None:
    """The worker could not go on: try again, or give the shard up. Raises LeaseLost."""
    _end_lease(session, lease, state="pending", error=error)
    _count_crash(session, lease.shard_id, error, attempts)


def note_cut_off(session: Session, lease: Lease) -> None:
    """The worker lives, but could not reach the database until its lease had run out: that does
    not count as a crash of the shard. Nothing happens when it was not counted as one."""
    mine = Attempt.shard_id == lease.shard_id, Attempt.fence == lease.fence
    counted = Attempt.error.endswith(UNHEARD)
    statement = (
        update(Attempt)
        .where(*mine, counted)
        .values(error=func.replace(Attempt.error, UNHEARD, CUT_OFF))
        .returning(Attempt.id)
    )
    if session.scalar(statement) is not None:
        session.execute(
            update(Shard)
            .where(Shard.id == lease.shard_id, Shard.state != "dead")
            .values(crashes=Shard.crashes - 1)
        )


def free(session: Session, workers: Sequence[str], attempts: int) -> Sequence[uuid.UUID]:
    """Free what these workers hold: they are known to have ended. Returns the jobs it concerns,
    sorted."""
    held = select(Shard).where(Shard.state == "leased", Shard.worker.in_(workers))
    return _free(session, held.with_for_update(), "ended before it was done.", attempts)


def take_back(session: Session, workers: Sequence[str]) -> int:
    """Have what these workers hold done by others, which counts as no crash: they are told to stop
    and do not hand it back themselves. Returns how many shards that were."""
    held = select(Shard).where(Shard.state == "leased", Shard.worker.in_(workers))
    shards = session.scalars(held.with_for_update()).all()
    for shard in shards:
        hand_back(session, _lease_of(shard))
    return len(shards)


def seconds_to_expiry(session: Session) -> float | None:
    """Until the first lease runs out, when it is not renewed; None when no shard is held."""
    left = func.extract("epoch", func.min(Shard.lease_until) - func.clock_timestamp())
    seconds = session.scalar(select(left).where(Shard.state == "leased"))
    return None if seconds is None else float(seconds)


def reap(session: Session, attempts: int) -> Sequence[uuid.UUID]:
    """Free every shard whose lease has run out; returns the jobs it concerns, sorted: who locks
    them in this order does not wait for another who does.

    Any number of reapers may run: rows that another is freeing are passed over.
    """
    lost = select(Shard).where(Shard.state == "leased", Shard.lease_until < func.clock_timestamp())
    return _free(session, lost.with_for_update(skip_locked=True), UNHEARD, attempts)


def _free(session: Session, which: Select[Shard], why: str, attempts: int) -> Sequence[uuid.UUID]:
    jobs: set[uuid.UUID] = set()
    for shard in session.scalars(which):
        crash(session, _lease_of(shard), f"Worker {shard.worker} {why}", attempts)
        jobs.add(shard.job_id)
    return sorted(jobs)


def _lease_of(shard: Shard) -> Lease:
    return Lease(shard.id, shard.job_id, shard.start, shard.stop, shard.fence)


def _may_run() -> ColumnElement[bool]:
    """The shard's job is live and not paused."""
    return exists().where(Job.id == Shard.job_id, Job.state.in_(("pending", "running")))


def _task(session: Session, shard_id: uuid.UUID) -> str:
    """The task that works on this shard."""
    kind = select(Job.kind).join(Shard, Shard.job_id == Job.id).where(Shard.id == shard_id)
    return outbox.shard_task(session.scalar(kind) or "")


def _start_job(session: Session, job_id: uuid.UUID) -> None:
    """With its sweep, which comes first: as it does where both are locked."""
    started = func.coalesce(Job.started_at, func.clock_timestamp())
    parent = select(Job.parent_id).where(Job.id == job_id).scalar_subquery()
    for this in (Job.id == parent, Job.id == job_id):
        session.execute(
            update(Job)
            .where(this, Job.state == "pending")
            .values(state="running", started_at=started)
        )


def _count_crash(session: Session, shard_id: uuid.UUID, error: str, attempts: int) -> None:
    shard = session.get_one(Shard, shard_id, populate_existing=True)
    shard.crashes += 1
    if shard.crashes >= attempts:
        shard.state = "dead"
        shard.error = f"{error} ({shard.crashes} attempts)"
    else:
        outbox.owe(session, _task(session, shard_id), shard_id)


def _end_lease(session: Session, lease: Lease, *, state: str, error: str | None = None) -> None:
    statement = (
        update(Shard)
        .where(_held(lease))
        .values(state=state, lease_until=None, error=error)
        .returning(Shard.id)
    )
    if session.scalar(statement) is None:
        raise LeaseLost(f"Shard {lease.shard_id} is no longer held under fence {lease.fence}.")
    session.execute(
        update(Attempt)
        .where(Attempt.shard_id == lease.shard_id, Attempt.fence == lease.fence)
        .values(ended_at=func.clock_timestamp(), error=error)
    )


def _held(lease: Lease) -> ColumnElement[bool]:
    return (Shard.id == lease.shard_id) & (Shard.fence == lease.fence) & (Shard.state == "leased")


def _from_now(seconds: float) -> ColumnElement[Any]:
    return func.clock_timestamp() + text(f"interval '{float(seconds)} seconds'")
