"""Which existing samples the next ones are steered away from, and their centre.

A negative is drawn from `real`, `synthetic` or `rejected` samples of the dataset in proportion
to the sources' weights; a source that is empty passes its share on to the others. The centre
holds, for each negative that was rejected, the nearest sample that people accepted: what both
have in common is not pushed away.

A sample that someone pinned is always among the negatives, one that was retired never.
"""

import random
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import ColumnElement, Row, delete, func, select, text, true, union_all
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from factory.errors import Conflict
from factory.spec import NegativesSpec, Source
from factory.tables import Job, Mark, Sample, SampleNegative

MarkKind = Literal["pinned", "retired"]

TRUE: ColumnElement[bool] = true()
PINS = 8  # of one dataset: each takes a place in every context
MARKED = 200  # that are listed
WINDOW = 1000  # the newest samples of a source: older evidence is not drawn from

STATES: Mapping[Source, tuple[str, tuple[str, ...]]] = {
    "real": ("real", ("accepted",)),
    "synthetic": ("synthetic", ("generated", "in_review", "accepted")),
    "rejected": ("synthetic", ("rejected",)),
}


@dataclass(frozen=True)
class Document:
    """A sample used as context: `source` is the pool it was drawn from."""

    id: uuid.UUID
    source: str
    text: str


@dataclass(frozen=True)
class Chosen:
    """Negatives and centre of one sample, each in the order the expert sees them."""

    negatives: tuple[Document, ...] = ()
    center: tuple[Document, ...] = ()


def choose(
    session: Session,
    dataset_id: uuid.UUID,
    spec: NegativesSpec,
    rng: random.Random,
    job_id: uuid.UUID | None = None,
    evidence: ColumnElement[bool] = TRUE,
) -> Chosen:
    """Draw negatives, and their centre when asked for. Empty when the dataset has none.

    What sweeps made to try settings is left out, but for what the job `job_id` made itself.
    evidence: the condition on a generated sample that its verdict counts.
    """
    pools = {
        source: pool
        for source, weight in spec.sources.items()
        if weight > 0 and (pool := _pool(session, dataset_id, source, job_id, evidence))
    }
    pinned = _pinned(session, dataset_id)
    picks = pinned + _draw(session, spec, pools, rng, spec.count - len(pinned))
    negatives = _documents(session, picks)
    rejected = [pick.id for pick in negatives if pick.source == "rejected"]
    center = _center(session, dataset_id, rejected, negatives, evidence) if spec.center else []
    return Chosen(tuple(negatives), tuple(center))


def pools(session: Session, dataset_id: uuid.UUID) -> dict[str, int]:
    """How many samples each source can be drawn from, at most WINDOW."""
    return {source: len(_pool(session, dataset_id, source)) for source in STATES}


def list_page(
    session: Session, dataset_id: uuid.UUID, *, before: uuid.UUID | None = None, limit: int = 50
) -> Sequence[tuple[Sample, int]]:
    """Rejected samples, newest first, and how many samples were steered away from each."""
    used = (
        select(func.count())
        .where(SampleNegative.negative_id == Sample.id, SampleNegative.role == "negative")
        .scalar_subquery()
    )
    statement = select(Sample, used).where(
        Sample.dataset_id == dataset_id, Sample.origin == "synthetic", Sample.state == "rejected"
    )
    if before is not None:
        statement = statement.where(Sample.id < before)
    rows = session.execute(statement.order_by(Sample.id.desc()).limit(limit))
    return [(sample, count) for sample, count in rows]


def recorded(session: Session, ids: Sequence[uuid.UUID]) -> tuple[Document, ...]:
    """The documents of these samples, in order: for replay."""
    return tuple(_documents(session, [_Pick(id_, "recorded") for id_ in ids]))


def mark(session: Session, sample: Sample, kind: MarkKind) -> None:
    """Pin or retire a sample as a negative; what it was before no longer holds.

    Raises Conflict when PINS samples of the dataset are pinned already.
    """
    if kind == "pinned" and _others_pinned(session, sample) >= PINS:
        raise Conflict(f"{PINS} samples are pinned already, which fill a context. Unpin one first.")
    values = {"sample_id": sample.id, "dataset_id": sample.dataset_id, "kind": kind}
    anew = {"kind": kind, "created_at": func.clock_timestamp()}
    statement = insert(Mark).values(values)
    session.execute(statement.on_conflict_do_update(index_elements=["sample_id"], set_=anew))


def unmark(session: Session, sample_id: uuid.UUID) -> None:
    """Treat a sample as any other again."""
    session.execute(delete(Mark).where(Mark.sample_id == sample_id))


def marks(session: Session, sample_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, str]:
    """What was decided about these samples; those that are not marked are left out."""
    statement = select(Mark.sample_id, Mark.kind).where(Mark.sample_id.in_(sample_ids))
    return dict(session.execute(statement).tuples().all())


def marked(session: Session, dataset_id: uuid.UUID, kind: MarkKind) -> Sequence[Sample]:
    """The dataset's samples with this mark, the newest mark first."""
    statement = (
        select(Sample)
        .join(Mark, Mark.sample_id == Sample.id)
        .where(Mark.dataset_id == dataset_id, Mark.kind == kind)
        .order_by(Mark.created_at.desc())
    )
    return session.scalars(statement.limit(MARKED)).all()


def _others_pinned(session: Session, sample: Sample) -> int:
    others = Mark.dataset_id == sample.dataset_id, Mark.sample_id != sample.id
    statement = select(func.count()).where(*others, Mark.kind == "pinned")
    return session.scalar(statement) or 0


@dataclass(frozen=True)
class _Pick:
    id: uuid.UUID
    source: str


def _pool(
    session: Session,
    dataset_id: uuid.UUID,
    source: Source,
    job_id: uuid.UUID | None = None,
    evidence: ColumnElement[bool] = TRUE,
) -> list[uuid.UUID]:
    """Ids of the newest unmarked samples of a source, newest first."""
    origin, states = STATES[source]
    tried = select(Job.id).where(Job.parent_id.is_not(None), Job.id.is_distinct_from(job_id))
    usual = Sample.job_id.is_(None) | Sample.job_id.not_in(tried)
    marked = select(Mark.sample_id).where(Mark.dataset_id == dataset_id)
    counts = evidence if source == "rejected" else TRUE
    newest = [
        select(Sample.id)
        .where(Sample.dataset_id == dataset_id, Sample.origin == origin, Sample.state == state)
        .where(usual, Sample.id.not_in(marked), counts)
        .order_by(Sample.id.desc())
        .limit(WINDOW)
        for state in states
    ]
    rows = union_all(*newest).subquery()
    return list(session.scalars(select(rows.c.id).order_by(rows.c.id.desc()).limit(WINDOW)))


def _pinned(session: Session, dataset_id: uuid.UUID) -> list[_Pick]:
    """The pinned samples, the newest pin first, each with the source it would be drawn from."""
    statement = (
        select(Sample.id, Sample.origin, Sample.state)
        .join(Mark, Mark.sample_id == Sample.id)
        .where(Mark.dataset_id == dataset_id, Mark.kind == "pinned")
        .order_by(Mark.created_at.desc())
    )
    return [_Pick(row.id, _source(row.origin, row.state)) for row in session.execute(statement)]


def _source(origin: str, state: str) -> Source:
    if origin == "synthetic":
        return "rejected" if state == "rejected" else "synthetic"
    return "real"


def _draw(
    session: Session,
    spec: NegativesSpec,
    pools: dict[Source, list[uuid.UUID]],
    rng: random.Random,
    count: int,
) -> list[_Pick]:
    """`count` picks, no sample twice; fewer when the pools run dry."""
    if spec.strategy == "nearest" and pools:
        first = rng.choices(list(pools), [spec.sources[source] for source in pools])[0]
        anchor = rng.choice(pools[first])
        pools = {source: _around(session, anchor, pool) for source, pool in pools.items()}
    picks: list[_Pick] = []
    left = {source: list(pool) for source, pool in pools.items()}
    while len(picks) < count and left:
        source = rng.choices(list(left), [spec.sources[source] for source in left])[0]
        at = rng.randrange(len(left[source])) if spec.strategy == "random" else 0
        picks.append(_Pick(left[source].pop(at), source))
        if not left[source]:
            del left[source]
    return picks


def _around(session: Session, anchor_id: uuid.UUID, pool: list[uuid.UUID]) -> list[uuid.UUID]:
    """The pool sorted by distance to the anchor, so that the negatives share a theme, as the
    lists do that an expert is trained on. Samples without an embedding come last."""
    anchor, other = aliased(Sample), aliased(Sample)
    distance = other.embedding.cosine_distance(anchor.embedding)
    statement = (
        select(other.id)
        .join(anchor, anchor.id == anchor_id)
        .where(other.id.in_(pool))
        .order_by(distance.nulls_last(), other.id.desc())
    )
    return list(session.scalars(statement))


def _documents(session: Session, picks: Sequence[_Pick]) -> list[Document]:
    ids = [pick.id for pick in picks]
    rows = session.execute(select(Sample.id, Sample.text).where(Sample.id.in_(ids)))
    texts = {row.id: row.text for row in rows}
    return [Document(pick.id, pick.source, texts[pick.id]) for pick in picks]


def _center(
    session: Session,
    dataset_id: uuid.UUID,
    rejected: Sequence[uuid.UUID],
    negatives: Sequence[Document],
    evidence: ColumnElement[bool],
) -> list[Document]:
    """For each rejected negative in order, its nearest accepted sample, none of them twice."""
    taken = {document.id for document in negatives}
    center: list[Document] = []
    if rejected:
        session.execute(text("SET LOCAL hnsw.iterative_scan = strict_order"))
    for id_ in rejected:
        row = _nearest_accepted(session, dataset_id, id_, taken, evidence)
        if row is not None:
            center.append(Document(row.id, "accepted", row.text))
            taken.add(row.id)
    return center


def _nearest_accepted(
    session: Session,
    dataset_id: uuid.UUID,
    id_: uuid.UUID,
    taken: set[uuid.UUID],
    evidence: ColumnElement[bool],
) -> Row[uuid.UUID, str] | None:
    here = session.scalar(select(Sample.embedding).where(Sample.id == id_))
    if here is None:
        return None
    candidates = select(Sample.id, Sample.text).where(
        Sample.dataset_id == dataset_id,
        Sample.state == "accepted",
        Sample.origin.in_(("synthetic", "corrected")),
        (Sample.origin == "corrected") | evidence,
        Sample.embedding.is_not(None),
        Sample.id.not_in(taken),
    )
    distance = Sample.embedding.cosine_distance(here)
    found = session.execute(candidates.order_by(distance).limit(1)).one_or_none()
    if found is None:  # the index gave up before a row passed: look at each of them
        found = session.execute(candidates.order_by(distance + 0).limit(1)).one_or_none()
    return found
