"""Jobs: submitted with their shards in one transaction, ended when every shard has ended.

pending → running ⇄ paused → succeeded | partial | failed | cancelled

A sweep's settings are generate jobs of their own, its children. When all that live have ended,
the sweep's next shard is owed, which measures them. A parent is locked before its children.
"""

import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import exists, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from factory import budgets, outbox
from factory.errors import Conflict, NotFound
from factory.feedback import Feedback
from factory.ids import new_id
from factory.spec import AnySpec, EvaluateSpec, GenerateSpec, JobKind, ProbeSpec, SweepSpec
from factory.tables import (
    Dataset,
    Failure,
    Job,
    ModelPair,
    Push,
    Sample,
    SampleNegative,
    Shard,
)

LIVE = ("pending", "running", "paused")
ENDED = ("succeeded", "partial", "failed", "cancelled")


@dataclass(frozen=True)
class Progress:
    """How far a job is, counted from stored rows. `tokens_per_second` is over the whole run."""

    planned: int
    done: int
    failed: int
    filtered: int
    tokens: int
    tokens_per_second: float | None
    eta_seconds: float | None
    updated_at: datetime | None


def submit(
    session: Session,
    spec: AnySpec,
    dataset: Dataset,
    model: ModelPair | None,
    *,
    request: Any,
    idempotency_key: str | None = None,
    token_id: uuid.UUID | None = None,
    parent: Job | None = None,
    position: int | None = None,
) -> tuple[Job, bool]:
    """Store a job, its shards and their wake-ups. Returns the job and whether it is new.

    `request` is the body as it was sent, which a repeated key must come with again; raises
    Conflict when it does not, and OverBudget when the day's budget of the dataset, of the token
    or of all does not allow the job. `parent`, `position`: of the settings that a sweep tries,
    which has spent for them.
    """
    job = _new_job(spec, dataset, model)
    job |= {"parent_id": parent.id if parent else None, "position": position}
    row = {**job, "idempotency_key": idempotency_key, "request_sha256": _digest(request)}
    statement = insert(Job).values(row).on_conflict_do_nothing(index_elements=["idempotency_key"])
    if session.scalar(statement.returning(Job.id)) is None:
        earlier = select(Job).where(Job.idempotency_key == idempotency_key)
        return _for_same(request, session.scalars(earlier).one()), False
    shards = _new_shards(job["id"], job["count"], _shard_size(spec))
    session.add_all(shards)
    session.flush()
    if parent is None:
        budgets.spend(session, session.get_one(Job, job["id"]), spec, token_id)
    if not isinstance(spec, SweepSpec):  # a sweep's shards wait for its children
        outbox.owe(session, outbox.shard_task(spec.kind), *(shard.id for shard in shards))
    return session.get_one(Job, job["id"]), True


def submitted(session: Session, request: Any, idempotency_key: str) -> Job | None:
    """The job that this key was used for. Raises Conflict when that was for another body."""
    job = session.scalar(select(Job).where(Job.idempotency_key == idempotency_key))
    return None if job is None else _for_same(request, job)


def is_training(session: Session, model: str) -> bool:
    """Whether a live job is making a model pair of this name."""
    statement = select(Job.id).where(
        Job.kind == "train", Job.state.in_(LIVE), Job.spec["model"].astext == model
    )
    return session.scalar(statement.limit(1)) is not None


def get(session: Session, job_id: uuid.UUID, *, lock: bool = False) -> Job:
    """The job of this id; with `lock` its parent is locked first. Raises NotFound."""
    if lock:
        parent = session.scalar(select(Job.parent_id).where(Job.id == job_id))
        if parent is not None:
            session.get(Job, parent, with_for_update={"key_share": True}, populate_existing=True)
    # Not against those who only insert samples of the job: they do not change it.
    job = session.get(Job, job_id, with_for_update={"key_share": True} if lock else None)
    if job is None:
        raise NotFound(f"There is no job {job_id}.")
    return job


def list_page(
    session: Session,
    *,
    dataset_id: uuid.UUID | None = None,
    state: str | None = None,
    kind: str | None = None,
    before: uuid.UUID | None = None,
    limit: int = 50,
) -> Sequence[Job]:
    """Jobs, newest first, at most `limit`, older than the job `before`; not those of sweeps."""
    own = Job.parent_id.is_(None)
    statement = select(Job).where(own).order_by(Job.id.desc()).limit(limit)
    if kind is not None:
        statement = statement.where(Job.kind == kind)
    if dataset_id is not None:
        statement = statement.where(Job.dataset_id == dataset_id)
    if state is not None:
        statement = statement.where(Job.state == state)
    if before is not None:
        statement = statement.where(Job.id < before)
    return session.scalars(statement).all()


def with_model(session: Session, model_id: uuid.UUID, limit: int) -> Sequence[Job]:
    """The newest jobs that use a model pair, or made it, newest first; a sweep's own are left
    out."""
    of = select(Job).where(Job.model_id == model_id, Job.parent_id.is_(None))
    return session.scalars(of.order_by(Job.id.desc()).limit(limit)).all()


def newest_done(session: Session, model_id: uuid.UUID, kind: JobKind) -> Job | None:
    """The newest job of this kind with a model pair that succeeded, if any has."""
    of = select(Job).where(Job.model_id == model_id, Job.kind == kind, Job.state == "succeeded")
    return session.scalar(of.order_by(Job.id.desc()).limit(1))


def in_training(session: Session) -> Sequence[Job]:
    """Train jobs that have not ended, newest first."""
    statement = select(Job).where(Job.ended_at.is_(None), Job.kind == "train")
    return session.scalars(statement.order_by(Job.id.desc())).all()


def shards_of(session: Session, job_id: uuid.UUID) -> Sequence[Shard]:
    """A job's shards in order."""
    return session.scalars(select(Shard).where(Shard.job_id == job_id).order_by(Shard.index)).all()


def children(session: Session, job_id: uuid.UUID) -> Sequence[Job]:
    """The jobs of a sweep, in the order in which they were submitted."""
    return session.scalars(select(Job).where(Job.parent_id == job_id).order_by(Job.id)).all()


def newest_evaluation(
    session: Session, dataset_id: uuid.UUID, *, of: uuid.UUID | None = None
) -> Job | None:
    """The newest evaluation of a dataset that is done; with `of`, of this job's samples."""
    statement = select(Job).where(
        Job.dataset_id == dataset_id, Job.kind == "evaluate", Job.state == "succeeded"
    )
    if of is not None:
        statement = statement.where(Job.spec["job"].astext == str(of))
    return session.scalar(statement.order_by(Job.id.desc()).limit(1))


def cancel(session: Session, job_id: uuid.UUID) -> Job:
    """End a job now, and those of a sweep; its worker stops within one batch. Raises Conflict
    when it has ended."""
    job = _live(session, job_id, "cancelled")
    for each in (job, *_live_children(session, job_id)):
        _end(session, each, "cancelled")
    return job


def pause(session: Session, job_id: uuid.UUID) -> Job:
    """Hold a job, and those of a sweep; its worker hands its shard back within one batch."""
    job = _live(session, job_id, "paused")
    for each in (job, *_live_children(session, job_id)):
        each.state = "paused"
    return job


def resume(session: Session, job_id: uuid.UUID) -> Job:
    """Go on with a paused job. Raises Conflict when it is not paused."""
    job = get(session, job_id, lock=True)
    if job.state != "paused":
        raise Conflict(f"Job {job_id} is {job.state}, not paused.")
    for each in (job, *_live_children(session, job_id)):
        each.state = "running" if each.started_at else "pending"
        if each.kind != "sweep":
            waiting = select(Shard.id).where(Shard.job_id == each.id, Shard.state == "pending")
            outbox.owe(session, outbox.shard_task(each.kind), *session.scalars(waiting))
    _owe_next(session, job)
    return job


def fail(session: Session, job_id: uuid.UUID, reason: str) -> None:
    """End a job that cannot go on, with the reason in words."""
    job = get(session, job_id, lock=True)
    if job.state in LIVE:
        job.error = reason
        _end(session, job, "failed")


def finish_if_done(session: Session, job_id: uuid.UUID) -> Job:
    """End the job if all its shards have ended; the last of them decides how."""
    job = get(session, job_id, lock=True)
    open_shards = select(Shard.id).where(
        Shard.job_id == job_id, Shard.state.in_(("pending", "leased"))
    )
    if job.state not in LIVE:
        return job
    if session.scalar(open_shards.limit(1)) is not None:
        _owe_next(session, job)
        return job
    so_far = progress(session, job)
    dead = session.scalars(
        select(Shard.error).where(Shard.job_id == job_id, Shard.state == "dead")
    ).all()
    job.error = _what_went_wrong(so_far.failed, dead)
    complete = not dead if job.kind == "sweep" else so_far.done == so_far.planned
    some = so_far.done > 0 and job.kind == "generate"
    if job.kind == "generate":
        job.result = _steering(session, job)
    _end(session, job, "succeeded" if complete else "partial" if some else "failed")
    return job


def progress(session: Session, job: Job) -> Progress:
    """How far the job is."""
    if job.kind == "generate":
        return _row_progress(session, job, job.count, [job.id])
    if job.kind == "sweep":
        rounds = (shard.progress for shard in shards_of(session, job.id))
        planned = sum(int(each.get("planned", 0)) for each in rounds)
        return _row_progress(session, job, planned, [each.id for each in children(session, job.id)])
    return _step_progress(session, job)


def push(session: Session, job_id: uuid.UUID) -> int:
    """Owe the review of every sample of the job that is not on its way yet; returns how many."""
    job = get(session, job_id)
    samples = select(Sample.id, Sample.dataset_id).where(
        Sample.job_id == job_id, Sample.state == "generated"
    )
    statement = insert(Push).from_select(["sample_id", "dataset_id"], samples)
    added = session.execute(statement.on_conflict_do_nothing().returning(Push.sample_id)).all()
    if added:
        outbox.owe(session, outbox.PUSH, job.dataset_id)
    return len(added)


def _new_job(spec: AnySpec, dataset: Dataset, model: ModelPair | None) -> dict[str, Any]:
    stored = spec.model_dump(mode="json")
    if isinstance(spec, GenerateSpec | ProbeSpec | SweepSpec) and spec.prompt is None:
        stored["prompt"] = dataset.prompt
    if isinstance(spec, GenerateSpec) and spec.feedback is None:
        stored["feedback"] = Feedback.model_validate(dataset.feedback).model_dump(mode="json")
    return {
        "id": new_id(),
        "kind": spec.kind,
        "dataset_id": dataset.id,
        "model_id": model.id if model else None,
        "spec": stored,
        "count": _count(spec),
    }


def _end(session: Session, job: Job, state: str) -> None:
    """End a job; the last of a sweep's jobs has its next shard owed."""
    job.state = state
    job.ended_at = session.scalar(select(func.clock_timestamp()))
    if job.kind in ("generate", "sweep") and job.parent_id is None:
        made = progress(session, job)
        budgets.settle(session, job.id, made.done, made.tokens)
    if job.parent_id is not None:
        _owe_next(session, session.get_one(Job, job.parent_id))


def _owe_next(session: Session, sweep: Job) -> None:
    """Have the jobs of a sweep measured once none of them lives."""
    session.flush()
    if sweep.kind != "sweep" or sweep.state not in ("pending", "running"):
        return
    if not _live_children(session, sweep.id):
        waiting = (shard for shard in shards_of(session, sweep.id) if shard.state == "pending")
        following = [shard.id for shard in waiting][:1]
        outbox.owe(session, outbox.shard_task(sweep.kind), *following)


def _live_children(session: Session, job_id: uuid.UUID) -> Sequence[Job]:
    live = select(Job).where(Job.parent_id == job_id, Job.state.in_(LIVE)).order_by(Job.id)
    return session.scalars(live.with_for_update(key_share=True)).all()


def _new_shards(job_id: uuid.UUID, count: int, size: int) -> list[Shard]:
    return [
        Shard(job_id=job_id, index=index, start=start, stop=min(start + size, count))
        for index, start in enumerate(range(0, count, size))
    ]


def _count(spec: AnySpec) -> int:
    """What the job counts: samples, steps, measures, texts or rounds."""
    if isinstance(spec, GenerateSpec):
        return spec.count
    if isinstance(spec, SweepSpec):
        return len(spec.rungs())
    if isinstance(spec, ProbeSpec):
        return spec.limit
    return len(spec.metrics) if isinstance(spec, EvaluateSpec) else spec.steps


def _shard_size(spec: AnySpec) -> int:
    if isinstance(spec, GenerateSpec):
        return spec.shard_size
    return 1 if isinstance(spec, SweepSpec) else _count(spec)


def _for_same(request: Any, job: Job) -> Job:
    if job.request_sha256 != _digest(request):
        raise Conflict(
            f"Idempotency-Key '{job.idempotency_key}' was used for another body (job {job.id}). "
            "Use a new key for a new job."
        )
    return job


def _digest(request: Any) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _live(session: Session, job_id: uuid.UUID, wanted: str) -> Job:
    job = get(session, job_id, lock=True)
    if job.state not in LIVE:
        raise Conflict(f"Job {job_id} has ended ({job.state}); it cannot be {wanted}.")
    return job


def _steering(session: Session, job: Job) -> dict[str, Any] | None:
    """How many samples η could not steer, with a note in words; None when η was not used."""
    spec = GenerateSpec.model_validate(job.spec)
    used = (spec.feedback or Feedback()).levers.negatives is not None
    if spec.guidance.eta == 0 or spec.negatives.count == 0 or not used:
        return None
    guided = (Sample.job_id == job.id) & Sample.audit.is_(False)
    steered = exists().where(
        SampleNegative.sample_id == Sample.id, SampleNegative.role == "negative"
    )
    alone = session.scalar(select(func.count()).where(guided, ~steered)) or 0
    note = (
        f"{alone} samples were not steered: the dataset had no negatives yet when they started, "
        "so η had nothing to push from."
    )
    return {"without_negatives": alone, "note": note if alone else None}


def _what_went_wrong(failed: int, dead: Sequence[str | None]) -> str | None:
    parts = [f"{failed} samples could not be made"] if failed else []
    parts += [f"{len(dead)} shards were given up: {dead[0]}"] if dead else []
    return "; ".join(parts) or None


def _row_progress(
    session: Session, job: Job, planned: int, makers: Sequence[uuid.UUID]
) -> Progress:
    """Counted from the rows of the jobs that make the samples: itself, or a sweep's."""
    rows = select(
        func.count(),
        func.count().filter(Sample.state == "filtered"),
        func.coalesce(func.sum(Sample.token_count), 0),
        func.max(Sample.created_at),
    ).where(Sample.job_id.in_(makers))
    done, filtered, tokens, updated_at = session.execute(rows).one()
    failures = select(func.count()).where(Failure.job_id.in_(makers))
    failed = (session.scalar(failures) or 0) + _given_up(session, makers)
    rate = _rate(job.started_at, updated_at)
    left = planned - done - failed
    return Progress(
        planned=planned,
        done=done,
        failed=failed,
        filtered=filtered,
        tokens=tokens,
        tokens_per_second=tokens * rate if rate else None,
        eta_seconds=left / (done * rate) if rate and done and job.state in LIVE else None,
        updated_at=updated_at,
    )


def _given_up(session: Session, makers: Sequence[uuid.UUID]) -> int:
    """Ordinals of dead shards that have neither a sample nor a failure: nobody will make them."""
    ranges = select(Shard.id, Shard.start, Shard.stop).where(
        Shard.job_id.in_(makers), Shard.state == "dead"
    )
    dead: dict[uuid.UUID, int] = {r.id: r.stop - r.start for r in session.execute(ranges)}
    if not dead:
        return 0
    accounted = (
        select(func.count()).where(table.job_id.in_(makers), table.shard_id.in_(dead))
        for table in (Sample, Failure)
    )
    return sum(dead.values()) - sum(session.scalar(count) or 0 for count in accounted)


def _step_progress(session: Session, job: Job) -> Progress:
    shard = session.scalars(select(Shard).where(Shard.job_id == job.id)).one()
    planned = max(job.count, int(shard.progress.get("planned", 0)))
    done = planned if shard.state == "done" else int(shard.progress.get("done", 0))
    now = session.scalar(select(func.clock_timestamp()))
    rate = _rate(job.started_at, now if job.state == "running" else None)
    return Progress(
        planned=planned,
        done=done,
        failed=0,
        filtered=0,
        tokens=0,
        tokens_per_second=None,
        eta_seconds=(planned - done) / (done * rate) if rate and done else None,
        updated_at=job.ended_at or now,
    )


def _rate(start: datetime | None, end: datetime | None) -> float | None:
    """1 / seconds between both, or None while nothing can be said."""
    seconds = (end - start).total_seconds() if start and end else 0.0
    return 1 / seconds if seconds > 0 else None
