"""Samples: stored once under (job, ordinal), listed by keyset, and how each was made."""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, Subquery, exists, func, select, text, true, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased, undefer

from factory import outbox, tallies
from factory.errors import Conflict, Invalid, NotFound
from factory.ids import new_id
from factory.spec import ReviewSpec, is_reviewed
from factory.tables import (
    Attempt,
    Failure,
    Job,
    ModelPair,
    NearCopy,
    Push,
    Review,
    Sample,
    SampleNegative,
)
from factory.texts import NEAR_COPY

LOOKED_AT = 2000  # so few are compared one by one sooner than an index finds them among others
ROWS_AT_ONCE = 1000  # of one INSERT, which can have 65,535 values


@dataclass(frozen=True)
class Made:
    """A text that a worker made, with all that made it."""

    ordinal: int
    seed: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    audit: bool
    negatives: tuple[uuid.UUID, ...] = ()
    center: tuple[uuid.UUID, ...] = ()
    trace: bytes | None = None
    filter_reason: str | None = None


@dataclass(frozen=True)
class MadeBy:
    """Where a batch of samples comes from."""

    dataset_id: uuid.UUID
    job_id: uuid.UUID
    shard_id: uuid.UUID
    attempt_id: uuid.UUID
    label: str | None = None


@dataclass(frozen=True)
class Failed:
    """An ordinal that could not be made, and why."""

    ordinal: int
    error: str


def store(session: Session, by: MadeBy, rows: Sequence[Made | Failed], review: ReviewSpec) -> None:
    """Store a batch of a shard; an ordinal that is there already is left as it is.

    Call `shards.renew` first in the same transaction: it holds the shard against others.
    """
    made = [row for row in rows if isinstance(row, Made)]
    ids = {row.ordinal: new_id() for row in made}
    stored = _insert(session, Sample, [_sample(by, ids[row.ordinal], row) for row in made])
    kept = [row for row in made if ids[row.ordinal] in stored]
    _insert(session, SampleNegative, [n for row in kept for n in _links(ids[row.ordinal], row)])
    _insert(session, NearCopy, _near_copies(by, ids, kept))
    _insert(session, Failure, [_failure(by, row) for row in rows if isinstance(row, Failed)])
    _owe(session, by.dataset_id, [(ids[row.ordinal], row) for row in kept], review)


def get(session: Session, sample_id: uuid.UUID) -> Sample:
    """The sample of this id. Raises NotFound."""
    sample = session.get(Sample, sample_id)
    if sample is None:
        raise NotFound(f"There is no sample {sample_id}.")
    return sample


def get_synthetic(session: Session, sample_id: uuid.UUID) -> Sample:
    """A generated sample with its tokens and trace. Raises NotFound or Conflict."""
    loaded = (undefer(Sample.token_ids), undefer(Sample.trace))
    sample = session.get(Sample, sample_id, options=loaded)
    if sample is None:
        raise NotFound(f"There is no sample {sample_id}.")
    if sample.origin != "synthetic":
        raise Conflict(f"Sample {sample_id} is {sample.origin}: it was not generated here.")
    return sample


def list_page(
    session: Session,
    dataset_id: uuid.UUID,
    *,
    origin: str | None = None,
    states: Sequence[str] = (),
    job_id: uuid.UUID | None = None,
    query: str | None = None,
    reason: str | None = None,
    near_copy: bool | None = None,
    before: uuid.UUID | None = None,
    limit: int = 50,
) -> Sequence[Sample]:
    """Samples, newest first, at most `limit`, older than the sample `before`.

    `query` is matched as words, in the way of a web search ("quoted phrase", -not). `reason` is
    one that a live review gives, or why the sample was filtered out. `near_copy`: only those that
    are marked as one, or only the others.
    """
    statement = select(Sample).where(Sample.dataset_id == dataset_id)
    marked = exists().where(NearCopy.sample_id == Sample.id)
    if near_copy is not None:
        statement = statement.where(marked if near_copy else ~marked)
    if origin is not None:
        statement = statement.where(Sample.origin == origin)
    if states:
        statement = statement.where(Sample.state.in_(states))
    if job_id is not None:
        statement = statement.where(Sample.job_id == job_id)
    if query:
        words = func.websearch_to_tsquery("simple", query)
        statement = statement.where(Sample.search.bool_op("@@")(words))
    if before is not None:
        statement = statement.where(Sample.id < before)
    if reason is not None:
        statement = _of_these(statement, _with_reason(dataset_id, reason))
    elif near_copy:
        statement = _of_these(statement, _near_copies_before(dataset_id, before))
    else:
        statement = statement.order_by(Sample.id.desc())
    return session.scalars(statement.limit(limit)).all()


def _of_these(statement: Select[Sample], ids: Subquery) -> Select[Sample]:
    """The statement's samples among these, in their order. Looked up one by one (which OFFSET 0
    has Postgres do), so that a page of them costs a page of look-ups."""
    one = aliased(Sample, statement.where(Sample.id == ids.c.sample_id).offset(0).lateral())
    return select(one).select_from(ids).join(one, true()).order_by(ids.c.sample_id.desc())


def _with_reason(dataset_id: uuid.UUID, reason: str) -> Subquery:
    """Ids of samples for which a live review gives this reason, and of the dataset's samples that
    were filtered out for it, newest first: each half has an index of its own."""
    given = Review.reasons.contains([reason]), Review.deleted_at.is_(None)
    filtered = Sample.dataset_id == dataset_id, Sample.filter_reason == reason
    every = select(Review.sample_id).where(*given).union(select(Sample.id).where(*filtered))
    ids = every.subquery()
    return select(ids.c.sample_id).order_by(ids.c.sample_id.desc()).offset(0).subquery()


def _near_copies_before(dataset_id: uuid.UUID, before: uuid.UUID | None) -> Subquery:
    """Ids of the dataset's near-copies, newest first."""
    ids = select(NearCopy.sample_id).where(NearCopy.dataset_id == dataset_id)
    if before is not None:
        ids = ids.where(NearCopy.sample_id < before)
    return ids.order_by(NearCopy.sample_id.desc()).offset(0).subquery()


def chosen(
    session: Session,
    dataset_id: uuid.UUID,
    *,
    origin: str,
    states: Sequence[str] = (),
    job_id: uuid.UUID | None = None,
    limit: int,
    seed: int,
) -> Sequence[Sample]:
    """At most `limit` samples with their embeddings, chosen by the seed; in a fixed order.
    Without a job, not those that sweeps made to try settings."""
    statement = select(Sample).where(Sample.dataset_id == dataset_id, Sample.origin == origin)
    if states:
        statement = statement.where(Sample.state.in_(states))
    if job_id is not None:
        statement = statement.where(Sample.job_id == job_id)
    else:
        tried = select(Job.id).where(Job.parent_id.is_not(None))
        statement = statement.where(Sample.job_id.is_(None) | Sample.job_id.not_in(tried))
    drawn = func.md5(func.concat(Sample.id, seed))
    statement = statement.options(undefer(Sample.embedding)).order_by(drawn, Sample.id)
    return session.scalars(statement.limit(limit)).all()


def by_ids(session: Session, ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, Sample]:
    """These samples by their ids; unknown ids are left out."""
    rows = session.scalars(select(Sample).where(Sample.id.in_(ids)))
    return {sample.id: sample for sample in rows}


def of_job(session: Session, job_id: uuid.UUID, start: int, stop: int) -> dict[int, Sample]:
    """A job's samples by their ordinals, from `start` up to `stop`, in order."""
    statement = select(Sample).where(
        Sample.job_id == job_id, Sample.ordinal >= start, Sample.ordinal < stop
    )
    rows = session.scalars(statement.order_by(Sample.ordinal))
    return {sample.ordinal: sample for sample in rows if sample.ordinal is not None}


def states_of_job(session: Session, job_id: uuid.UUID) -> dict[str, int]:
    """How many samples of a job are in each state."""
    statement = select(Sample.state, func.count()).where(Sample.job_id == job_id)
    return dict(session.execute(statement.group_by(Sample.state)).tuples().all())


def corrections_of(session: Session, sample_id: uuid.UUID) -> Sequence[Sample]:
    """The rewrites of a sample, newest first, withdrawn ones too."""
    statement = select(Sample).where(Sample.corrects == sample_id)
    return session.scalars(statement.order_by(Sample.id.desc())).all()


def negatives_of(session: Session, sample_id: uuid.UUID) -> Sequence[tuple[SampleNegative, Sample]]:
    """The samples that a sample was steered away from, and their centre, in order."""
    statement = (
        select(SampleNegative, Sample)
        .join(Sample, Sample.id == SampleNegative.negative_id)
        .where(SampleNegative.sample_id == sample_id)
        .order_by(SampleNegative.role.desc(), SampleNegative.position)
    )
    return [(link, sample) for link, sample in session.execute(statement)]


def provenance(session: Session, sample_id: uuid.UUID) -> dict[str, Any]:
    """Everything that is needed to make a generated sample again."""
    sample = get_synthetic(session, sample_id)
    job = session.get_one(Job, sample.job_id)
    attempt = session.get_one(Attempt, sample.attempt_id)
    model = session.get_one(ModelPair, job.model_id)
    links = negatives_of(session, sample_id)
    return {
        "sample": str(sample.id),
        "job": str(sample.job_id),
        "shard": str(sample.shard_id),
        "ordinal": sample.ordinal,
        "seed": sample.seed,
        "prompt": job.spec["prompt"],
        "guidance": job.spec["guidance"],
        "sampling": job.spec["sampling"],
        "model": _model(model),
        "negatives": _documents(links, "negative"),
        "center": _documents(links, "center"),
        "audit": sample.audit,
        **attempt.environment,
        **({} if links else {"kv": "joint"}),
        "levers": levers_of(sample, attempt) or [],
        "worker": attempt.worker,
        "finish_reason": sample.finish_reason,
        "created_at": sample.created_at.isoformat(),
    }


def similarities(
    session: Session, sample_id: uuid.UUID, others: Sequence[uuid.UUID]
) -> dict[uuid.UUID, float]:
    """The cosine similarity of a sample to each of these; those without an embedding are left
    out, and all of them while the sample has none."""
    here = session.scalar(select(Sample.embedding).where(Sample.id == sample_id))
    if here is None:
        return {}
    away = Sample.embedding.cosine_distance(here)
    found = select(Sample.id, away).where(Sample.id.in_(others), Sample.embedding.is_not(None))
    return {id_: 1 - distance for id_, distance in session.execute(found)}


def steered_by(session: Session, sample_id: uuid.UUID) -> int:
    """How many samples were steered away from this one."""
    used = SampleNegative.negative_id == sample_id, SampleNegative.role == "negative"
    return session.scalar(select(func.count()).where(*used)) or 0


def levers_of(sample: Sample, attempt: Attempt) -> list[dict[str, Any]] | None:
    """What acted on a sample beside its negatives, none on an audit sample; None for one that
    was made before this was noted."""
    return [] if sample.audit else attempt.environment.get("levers")


def neighbours(
    session: Session, sample_id: uuid.UUID, k: int, origin: str | None = None
) -> Sequence[tuple[Sample, float]]:
    """The k nearest samples of the dataset (of this origin) with their cosine similarity,
    nearest first.

    Returns k where the dataset has k: the index is scanned on until enough rows pass.
    Raises Conflict while the sample has no embedding.
    """
    sample = get(session, sample_id)
    here = session.scalar(select(Sample.embedding).where(Sample.id == sample_id))
    if here is None:
        raise Conflict(f"Sample {sample_id} has no embedding yet. Try again in a moment.")
    session.execute(text("SET LOCAL hnsw.iterative_scan = strict_order"))
    distance = Sample.embedding.cosine_distance(here)
    statement = select(Sample, distance.label("away")).where(
        Sample.dataset_id == sample.dataset_id,
        Sample.id != sample_id,
        Sample.embedding.is_not(None),
    )
    if origin is not None:
        statement = statement.where(Sample.origin == origin)
    few = origin is not None and _number(session, sample.dataset_id, origin) <= LOOKED_AT
    found = [] if few else session.execute(statement.order_by(distance).limit(k)).all()
    if len(found) < k:  # few, or the index gave up before enough rows passed: look at each
        found = session.execute(statement.order_by(distance + 0).limit(k)).all()
    return [(other, 1 - away) for other, away in found]


def _number(session: Session, dataset_id: uuid.UUID, origin: str) -> int:
    counted = tallies.read(session, "sample", [dataset_id])
    return tallies.by(counted, "origin").get(origin, 0)


def unembedded(
    session: Session, dataset_id: uuid.UUID, limit: int
) -> Sequence[tuple[uuid.UUID, str]]:
    """Samples that still need an embedding, oldest first."""
    statement = (
        select(Sample.id, Sample.text)
        .where(Sample.dataset_id == dataset_id, Sample.embedding.is_(None))
        .order_by(Sample.id)
        .limit(limit)
    )
    return [(id_, content) for id_, content in session.execute(statement)]


def set_embeddings(session: Session, vectors: Sequence[tuple[uuid.UUID, Sequence[float]]]) -> None:
    """Store unit vectors, 384 float32 each."""
    for id_, vector in vectors:
        if len(vector) != 384:
            raise Invalid(f"An embedding has {len(vector)} dimensions; 384 are needed.")
        session.execute(update(Sample).where(Sample.id == id_).values(embedding=list(vector)))


def _sample(by: MadeBy, id_: uuid.UUID, row: Made) -> dict[str, Any]:
    reason = _filter_reason(row)
    return {
        "id": id_,
        "dataset_id": by.dataset_id,
        "origin": "synthetic",
        "state": "filtered" if reason else "generated",
        "filter_reason": reason,
        "text": row.text,
        "text_sha256": hashlib.sha256(row.text.encode()).digest(),
        "label": by.label,
        "job_id": by.job_id,
        "shard_id": by.shard_id,
        "attempt_id": by.attempt_id,
        "ordinal": row.ordinal,
        "seed": row.seed,
        "audit": row.audit,
        "token_ids": list(row.token_ids),
        "token_count": len(row.token_ids),
        "finish_reason": row.finish_reason,
        "trace": row.trace,
    }


def _filter_reason(row: Made) -> str | None:
    return row.filter_reason if row.text.strip() else "empty"


def _links(sample_id: uuid.UUID, row: Made) -> list[dict[str, Any]]:
    roles = (("negative", row.negatives), ("center", row.center))
    return [
        {"sample_id": sample_id, "role": role, "position": position, "negative_id": id_}
        for role, ids in roles
        for position, id_ in enumerate(ids)
    ]


def _near_copies(
    by: MadeBy, ids: Mapping[int, uuid.UUID], kept: Sequence[Made]
) -> list[dict[str, Any]]:
    """Marks for those that a gate filtered out as near-copies."""
    return [
        {"sample_id": ids[row.ordinal], "dataset_id": by.dataset_id, "why": row.filter_reason}
        for row in kept
        if (row.filter_reason or "").startswith(NEAR_COPY)
    ]


def _failure(by: MadeBy, row: Failed) -> dict[str, Any]:
    return {
        "job_id": by.job_id,
        "ordinal": row.ordinal,
        "shard_id": by.shard_id,
        "error": row.error,
    }


def _insert(session: Session, table: Any, rows: list[dict[str, Any]]) -> set[uuid.UUID]:
    """Insert rows that are not there yet; returns the first key column of those inserted."""
    key = table.__table__.primary_key.columns.values()[0]
    inserted: set[uuid.UUID] = set()
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[start : start + ROWS_AT_ONCE]
        statement = insert(table).values(part).on_conflict_do_nothing().returning(key)
        inserted.update(session.scalars(statement))
    return inserted


def _owe(
    session: Session,
    dataset_id: uuid.UUID,
    kept: Sequence[tuple[uuid.UUID, Made]],
    review: ReviewSpec,
) -> None:
    if not kept:
        return
    outbox.owe(session, outbox.EMBED, dataset_id)
    pushes = [
        {"sample_id": id_, "dataset_id": dataset_id}
        for id_, row in kept
        if review.push and _filter_reason(row) is None and is_reviewed(review.fraction, row.seed)
    ]
    if pushes:
        session.execute(insert(Push).values(pushes))
        outbox.owe(session, outbox.PUSH, dataset_id)


def _model(model: ModelPair) -> dict[str, Any]:
    return {
        "name": model.name,
        "base": {"ref": model.base, "sha256": model.base_sha256},
        "expert": {"ref": model.expert, "sha256": model.expert_sha256},
        "tokenizer": {"sha256": model.tokenizer_sha256},
        "revision": model.revision,
    }


def _documents(links: Sequence[tuple[SampleNegative, Sample]], role: str) -> list[dict[str, Any]]:
    return [
        {"id": str(sample.id), "origin": sample.origin, "position": link.position}
        for link, sample in links
        if link.role == role
    ]
