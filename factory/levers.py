"""What levers are fitted on, and what was fitted: evidence, fitted levers, back-offs.

Evidence is the latest live verdict on each generated sample, inside the dataset's window.
Fitting is a worker's work; here is what it reads and where it notes what came out.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, exists, func, select, true
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from factory.feedback import Feedback, Pool, Window, digest
from factory.ids import new_id
from factory.tables import Dataset, FittedLever, Job, Review, Sample

EVIDENCE = 5000  # verdicts, the newest ones: what levers are fitted on at most
TEXTS = 20_000  # of each pool, the newest ones: what a near-copy is looked for among
BACK_OFF = "back_off"  # the name under which a back-off is noted
POOLS: dict[Pool, tuple[str, ...]] = {"real": ("real",), "stored": ("synthetic", "corrected")}


@dataclass(frozen=True)
class Verdict:
    """What people said of one text."""

    sample_id: uuid.UUID
    text: str
    accepted: bool
    reasons: tuple[str, ...]
    given_at: datetime
    embedding: Sequence[float] | None


@dataclass(frozen=True)
class Stored:
    """A text that others are compared with."""

    origin: str
    text: str
    embedding: Sequence[float] | None


@dataclass(frozen=True)
class Fit:
    """What came out of fitting a lever. `digest` None: it does not act, and `note` says why."""

    name: str
    settings: dict[str, Any]
    digest: str | None
    verdicts: int = 0
    rejected: int = 0
    evidence_until: datetime | None = None
    result: dict[str, Any] | None = None
    note: str | None = None


def within(dataset_id: uuid.UUID, window: Window) -> ColumnElement[bool]:
    """The condition that a sample's verdict lies inside the window."""
    condition: ColumnElement[bool] = true()
    said, of = aliased(Review), aliased(Sample)
    if window.rounds is not None:
        reviewed = (
            select(of.job_id)
            .join(said, said.sample_id == of.id)
            .where(of.dataset_id == dataset_id, of.job_id.is_not(None))
            .where(said.deleted_at.is_(None))
            .group_by(of.job_id)
            .order_by(of.job_id.desc())
            .limit(window.rounds)
        )
        condition = Sample.job_id.in_(reviewed)
    if window.days is not None:
        since = func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, window.days * 86_400)
        recent = exists().where(
            said.sample_id == Sample.id, said.deleted_at.is_(None), said.updated_at >= since
        )
        condition = condition & recent
    return condition


def evidence(session: Session, dataset_id: uuid.UUID, window: Window) -> list[Verdict]:
    """The verdicts inside the window that accept or reject a generated sample, by sample id."""
    latest = (
        select(Review.sample_id, Review.verdict, Review.reasons, Review.updated_at)
        .join(Sample, Sample.id == Review.sample_id)
        .where(Sample.dataset_id == dataset_id, Review.deleted_at.is_(None))
        .where(within(dataset_id, window))
        .order_by(Review.sample_id, Review.updated_at.desc(), Review.annotation_id.desc())
        .distinct(Review.sample_id)
        .subquery()
    )
    statement = (
        select(Sample.id, Sample.text, latest, Sample.embedding)
        .join(latest, latest.c.sample_id == Sample.id)
        .where(Sample.origin == "synthetic", latest.c.verdict.in_(("accept", "reject")))
        .order_by(Sample.id.desc())
        .limit(EVIDENCE)
    )
    rows = session.execute(statement).all()
    return [
        Verdict(
            row.id,
            row.text,
            row.verdict == "accept",
            tuple(row.reasons),
            row.updated_at,
            row.embedding,
        )
        for row in reversed(rows)
    ]


def texts(
    session: Session, dataset_id: uuid.UUID, pools: Sequence[Pool], job_id: uuid.UUID | None
) -> list[Stored]:
    """The newest texts of these pools that were not filtered, with their embeddings.

    What sweeps made to try settings is left out, but for what the job `job_id` made itself.
    """
    found: list[Stored] = []
    tried = select(Job.id).where(Job.parent_id.is_not(None), Job.id.is_distinct_from(job_id))
    for pool in pools:
        statement = (
            select(Sample.origin, Sample.text, Sample.embedding)
            .where(Sample.dataset_id == dataset_id, Sample.origin.in_(POOLS[pool]))
            .where(Sample.state != "filtered")
            .where(Sample.job_id.is_(None) | Sample.job_id.not_in(tried))
            .order_by(Sample.id.desc())
            .limit(TEXTS)
        )
        found += [Stored(*row) for row in session.execute(statement)]
    return found


def made_from(
    dataset_id: uuid.UUID, name: str, settings: dict[str, Any], verdicts: Sequence[Verdict]
) -> str:
    """SHA-256 of all that decides what a fit comes to."""
    said = [(str(v.sample_id), v.accepted, sorted(v.reasons)) for v in verdicts]
    return digest([str(dataset_id), name, settings, said])


def newest(
    session: Session, dataset_id: uuid.UUID, name: str, settings: dict[str, Any] | None = None
) -> FittedLever | None:
    """The newest fit of a lever, with `settings`: of one set so."""
    statement = select(FittedLever).where(
        FittedLever.dataset_id == dataset_id, FittedLever.name == name
    )
    if settings is not None:
        statement = statement.where(FittedLever.settings_sha256 == digest(settings))
    return session.scalar(statement.order_by(FittedLever.id.desc()).limit(1))


def fitted(session: Session, made_from: str) -> FittedLever | None:
    """The fit that was made from exactly this."""
    return session.scalar(select(FittedLever).where(FittedLever.made_from == made_from))


def note(session: Session, dataset_id: uuid.UUID, made_from: str, fit: Fit) -> FittedLever:
    """Keep what came out of a fit. Who fits the same a second time gets the first one's row."""
    values = {
        "id": new_id(),
        "dataset_id": dataset_id,
        "made_from": made_from,
        "settings_sha256": digest(fit.settings),
        **fit.__dict__,
        "result": fit.result or {},
    }
    session.execute(insert(FittedLever).values(values).on_conflict_do_nothing())
    return session.scalars(select(FittedLever).where(FittedLever.made_from == made_from)).one()


def state(session: Session, dataset: Dataset) -> dict[str, Any]:
    """What the dataset's levers are now: its setting, each lever's last fit, and by how much
    they are backed off."""
    setting = Feedback.model_validate(dataset.feedback)
    fits = [newest(session, dataset.id, name) for name in setting.levers.fits]
    backed_off = newest(session, dataset.id, BACK_OFF, setting.model_dump(mode="json"))
    return {
        "setting": setting.model_dump(mode="json"),
        "fitted": [fit for fit in fits if fit is not None],
        "scale": backed_off.result["scale"] if backed_off else 1.0,
        "backed_off": backed_off.note if backed_off else None,
    }


def variety_texts(
    session: Session,
    dataset_id: uuid.UUID,
    feedback: dict[str, Any],
    since: datetime | None,
    limit: int,
) -> tuple[list[str], list[str]]:
    """The newest texts made with feedback and without, at most `limit` of each, by jobs with
    this feedback setting, after `since`; filtered ones left out."""
    found: list[list[str]] = []
    for audit in (False, True):
        statement = (
            select(Sample.text)
            .join(Job, Job.id == Sample.job_id)
            .where(
                Sample.dataset_id == dataset_id,
                Sample.audit.is_(audit),
                Sample.state != "filtered",
                Job.spec["feedback"] == feedback,
                Job.parent_id.is_(None),
            )
        )
        if since is not None:
            statement = statement.where(Sample.created_at > since)
        found.append(list(session.scalars(statement.order_by(Sample.id.desc()).limit(limit))))
    return found[0], found[1]
