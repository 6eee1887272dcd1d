"""Reviews: the verdicts that come back from Label Studio.

Label Studio is the truth about verdicts. Its webhook events are hints; what counts is the
annotation as fetched. The latest live annotation of a sample decides its state:
accept → accepted, reject → rejected, fix → fixed (and a corrected sample is made).
"""

import hashlib
import json
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, cast

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from factory import outbox, tallies
from factory.ids import new_id
from factory.tables import Dataset, Push, Review, Sample, SampleNegative, WebhookEvent
from factory.tallies import Counted

VERDICTS = ("accept", "reject", "fix")
REASONS = ("incoherent", "off_topic", "duplicate", "memorised", "unsafe", "other")

STATE_OF = {"accept": "accepted", "reject": "rejected", "fix": "fixed"}


@dataclass(frozen=True)
class Verdict:
    """One annotation that carries a verdict, as fetched from Label Studio."""

    annotation_id: int
    task_id: int
    verdict: str
    reasons: tuple[str, ...]
    rewrite: str | None
    rating: int | None
    reviewer: str
    lead_seconds: float | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True)
class Judged:
    """One review with what matters of its sample. `steered`: made away from rejected samples."""

    sample_id: uuid.UUID
    job_id: uuid.UUID
    text: str
    verdict: str
    reasons: list[str]
    reviewer: str
    lead_seconds: float | None
    updated_at: datetime
    audit: bool
    steered: bool


@dataclass(frozen=True)
class Known:
    """What we hold of one task: its sample, the task's last change as far as we have seen it, why
    it counts as gone if it does, and when each live annotation was last changed."""

    sample_id: uuid.UUID
    task_id: int
    updated_at: datetime | None = None
    gone: str | None = None
    annotations: dict[int, datetime] = field(default_factory=dict)


def record_event(session: Session, payload: dict[str, Any]) -> bool:
    """Store a webhook event; returns whether it is new. A repeated one has no effect."""
    annotations = payload.get("annotations") or [payload.get("annotation") or {}]
    found = [_label_studio_id(annotation) for annotation in _listed(annotations)]
    values = {
        "id": new_id(),
        "digest": _event_digest(payload),
        "action": str(payload.get("action", "")),
        "project_id": _label_studio_id(payload.get("project")),
        "annotation_ids": [id_ for id_ in found if id_ is not None],
        "payload": payload,
    }
    statement = insert(WebhookEvent).values(values).on_conflict_do_nothing()
    event_id = session.scalar(statement.returning(WebhookEvent.id))
    if event_id is not None:
        outbox.owe(session, outbox.HANDLE_EVENT, event_id)
    return event_id is not None


def unhandled(session: Session, limit: int) -> Sequence[WebhookEvent]:
    """Events whose annotations were not fetched yet, oldest first."""
    statement = select(WebhookEvent).where(WebhookEvent.handled_at.is_(None))
    return session.scalars(statement.order_by(WebhookEvent.id).limit(limit)).all()


def is_handled(session: Session, event_id: uuid.UUID) -> bool:
    """Whether nothing is left to do for an event."""
    event = session.get(WebhookEvent, event_id)
    return event is None or event.handled_at is not None


def mark_handled(session: Session, *event_ids: uuid.UUID) -> None:
    """The events' annotations were re-fetched and applied."""
    statement = update(WebhookEvent).where(WebhookEvent.id.in_(event_ids))
    session.execute(statement.values(handled_at=func.clock_timestamp()))
    for event_id in event_ids:
        outbox.settle(session, outbox.HANDLE_EVENT, event_id)


def prune_events(session: Session, days: float) -> int:
    """Delete events that were handled more than `days` ago; returns how many. One that comes
    again after that is handled again, which changes nothing."""
    before = func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, days * 86_400)
    old = delete(WebhookEvent).where(WebhookEvent.handled_at < before).returning(WebhookEvent.id)
    return len(session.execute(old).all())


def known(
    session: Session, project_id: int, task_ids: Sequence[int] | None = None
) -> dict[int, Known]:
    """What we hold of a project's tasks: of these, or of all."""
    live = (Review.sample_id == Push.sample_id) & Review.deleted_at.is_(None)
    statement = (
        select(Push, Review.annotation_id, Review.updated_at)
        .outerjoin(Review, live)
        .where(Push.project_id == project_id, Push.task_id.is_not(None))
    )
    if task_ids is not None:
        statement = statement.where(Push.task_id.in_(task_ids))
    tasks: dict[int, Known] = {}
    for push, annotation_id, updated_at in session.execute(statement):
        task = tasks.setdefault(cast("int", push.task_id), _known(push))
        if annotation_id is not None:
            task.annotations[annotation_id] = updated_at
    return tasks


def _known(push: Push) -> Known:
    return Known(push.sample_id, cast("int", push.task_id), push.task_updated_at, push.error)


def counted(session: Session, project_id: int) -> tuple[int, int]:
    """How many tasks and live reviews of a project we know."""
    there = Push.project_id == project_id, Push.task_id.is_not(None), Push.error.is_(None)
    live = (Review.sample_id == Push.sample_id) & Review.deleted_at.is_(None)
    statement = select(func.count(Push.sample_id.distinct()), func.count(Review.id))
    tasks, found = session.execute(statement.outerjoin(Review, live).where(*there)).one()
    return tasks, found


def tasks_of_annotations(session: Session, annotation_ids: Sequence[int]) -> Sequence[int]:
    """The tasks that these annotations were made on, as far as we have seen them."""
    statement = (
        select(Push.task_id)
        .join(Review, Review.sample_id == Push.sample_id)
        .where(Review.annotation_id.in_(annotation_ids), Push.task_id.is_not(None))
    )
    return [task_id for task_id in session.scalars(statement.distinct()) if task_id is not None]


def settle(
    session: Session, mine: Known, said: Sequence[Verdict], updated_at: datetime | None
) -> bool:
    """Make the sample's live reviews exactly what was `said` on its task, as fetched after `mine`
    was read; returns whether anything changed.

    updated_at   the task's last change as fetched; None: the task is gone

    Fetches may overtake each other. One that is older than what was settled meanwhile, or of a
    task that was found to be gone meanwhile, changes nothing.
    """
    if not _take(session, mine, updated_at):
        return False
    live = select(Review.annotation_id, Review.updated_at)
    live = live.where(Review.sample_id == mine.sample_id, Review.deleted_at.is_(None))
    held = dict(session.execute(live).tuples().all())
    changed = [verdict for verdict in said if held.get(verdict.annotation_id) != verdict.updated_at]
    withdrawn = set(held) - {verdict.annotation_id for verdict in said}
    for annotation_id in filter(None, withdrawn):
        withdraw(session, annotation_id)
    for verdict in changed:
        apply(session, mine.sample_id, verdict)
    return bool(changed or withdrawn)


def _take(session: Session, mine: Known, updated_at: datetime | None) -> bool:
    """Lock a sample's push, unless what was fetched of its task is stale."""
    push = session.get_one(Push, mine.sample_id, with_for_update=True, populate_existing=True)
    if push.task_id != mine.task_id or push.error != mine.gone:
        return False
    if updated_at is None:
        push.error = "The task was deleted in Label Studio."
        return True
    if push.task_updated_at is not None and push.task_updated_at > updated_at:
        return False
    push.task_updated_at, push.error = updated_at, None
    return True


def reconciled(
    session: Session, dataset_id: uuid.UUID, project_id: int, until: datetime, *, whole: bool
) -> None:
    """Every change in the project up to `until` (Label Studio's clock) is known. `whole`: every
    task was looked at."""
    now = {"reviews_compared_at": func.clock_timestamp()} if whole else {}
    statement = update(Dataset).where(
        Dataset.id == dataset_id, Dataset.label_studio_project == project_id
    )
    session.execute(statement.values({"reviews_until": until, **now}))


def apply(session: Session, sample_id: uuid.UUID, verdict: Verdict) -> None:
    """Store a fetched verdict and bring the sample's state up to date. Idempotent."""
    values = {
        "id": new_id(),
        "sample_id": sample_id,
        "annotation_id": verdict.annotation_id,
        "verdict": verdict.verdict,
        "reasons": list(verdict.reasons),
        "rewrite": verdict.rewrite,
        "rating": verdict.rating,
        "reviewer": verdict.reviewer,
        "lead_seconds": verdict.lead_seconds,
        "created_at": verdict.created_at,
        "updated_at": verdict.updated_at,
        "deleted_at": None,
    }
    changed = {name: value for name, value in values.items() if name != "id"}
    statement = insert(Review).values(values)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[Review.annotation_id],
            set_=changed,
            where=Review.updated_at <= statement.excluded.updated_at,
        )
    )
    settle_state(session, sample_id)


def withdraw(session: Session, annotation_id: int) -> None:
    """The annotation is gone or says nothing any more: its review no longer counts."""
    statement = (
        update(Review)
        .where(Review.annotation_id == annotation_id, Review.deleted_at.is_(None))
        .values(deleted_at=func.clock_timestamp())
        .returning(Review.sample_id)
    )
    sample_id = session.scalar(statement)
    if sample_id is not None:
        settle_state(session, sample_id)


def settle_state(session: Session, sample_id: uuid.UUID) -> None:
    """Set a sample's state, and its correction, from its latest live review."""
    sample = session.get_one(Sample, sample_id, with_for_update=True, populate_existing=True)
    latest = session.scalar(
        select(Review)
        .where(Review.sample_id == sample_id, Review.deleted_at.is_(None))
        .order_by(Review.updated_at.desc(), Review.annotation_id.desc())
        .limit(1)
        .execution_options(populate_existing=True)
    )
    sample.state = STATE_OF[latest.verdict] if latest else "in_review"
    rewrite = latest.rewrite if latest and latest.verdict == "fix" else None
    _settle_correction(session, sample, rewrite)


def list_page(
    session: Session,
    dataset_id: uuid.UUID,
    *,
    before: uuid.UUID | None = None,
    limit: int = 50,
) -> Sequence[Review]:
    """Reviews of a dataset's samples, newest first, withdrawn ones too."""
    statement = (
        select(Review)
        .join(Sample, Sample.id == Review.sample_id)
        .where(Sample.dataset_id == dataset_id)
        .order_by(Review.id.desc())
        .limit(limit)
    )
    if before is not None:
        statement = statement.where(Review.id < before)
    return session.scalars(statement).all()


def judged(session: Session, dataset_id: uuid.UUID, limit: int) -> Sequence[Judged]:
    """The newest live reviews of a dataset's generated samples, at most `limit`."""
    statement = (
        select(Review.sample_id, Sample.job_id, Sample.text, Review.verdict, Review.reasons)
        .add_columns(Review.reviewer, Review.lead_seconds, Review.updated_at, Sample.audit)
        .join(Sample, Sample.id == Review.sample_id)
        .where(Sample.dataset_id == dataset_id, Sample.origin == "synthetic")
        .where(Review.deleted_at.is_(None))
        .order_by(Review.id.desc())
        .limit(limit)
    )
    rows = session.execute(statement).all()
    steered = _steered(session, [row.sample_id for row in rows])
    return [Judged(**row._mapping, steered=row.sample_id in steered) for row in rows]


def _steered(session: Session, sample_ids: Sequence[uuid.UUID]) -> set[uuid.UUID]:
    """Those of these samples that were steered away from a rejected one."""
    statement = (
        select(SampleNegative.sample_id)
        .join(Sample, Sample.id == SampleNegative.negative_id)
        .where(SampleNegative.sample_id.in_(sample_ids), SampleNegative.role == "negative")
        .where(Sample.state == "rejected")
    )
    return set(session.scalars(statement))


def of_sample(session: Session, sample_id: uuid.UUID) -> Sequence[Review]:
    """A sample's reviews, latest first, withdrawn ones too."""
    statement = select(Review).where(Review.sample_id == sample_id)
    return session.scalars(statement.order_by(Review.updated_at.desc())).all()


def live(session: Session, dataset_id: uuid.UUID) -> Sequence[Counted]:
    """How many live reviews a dataset has, by their facts (see `tallies`)."""
    return tallies.read(session, "review", [dataset_id])


def stats(
    session: Session, dataset_id: uuid.UUID, counted: Sequence[Counted] | None = None
) -> dict[str, Any]:
    """Counts of pushes, verdicts and reasons of a dataset. `counted`: its live reviews, where they
    are at hand."""
    counted = live(session, dataset_id) if counted is None else counted
    pushes = tallies.by(tallies.read(session, "push", [dataset_id]), "pushed")
    states = tallies.by(_synthetic(session, dataset_id), "state")
    reasons: Counter[str] = Counter()
    for each in counted:
        reasons.update(dict.fromkeys(each.facts["reasons"], each.number))
    return {
        "waiting": pushes.get(False, 0),
        "pushed": pushes.get(True, 0),
        "reviewed": sum(states.get(state, 0) for state in STATE_OF.values()),
        "verdicts": dict.fromkeys(VERDICTS, 0) | tallies.by(counted, "verdict"),
        "reasons": dict.fromkeys(REASONS, 0) | reasons,
    }


def outcomes(session: Session, dataset_id: uuid.UUID) -> dict[str, dict[str, Any]]:
    """What became of generated samples: those made with feedback (`guided`) and without it
    (`audit`). `reject_rate` is the share of rejected ones among those with a verdict."""
    counted: dict[bool, dict[str, int]] = {False: {}, True: {}}
    made = tallies.by(_synthetic(session, dataset_id), "audit", "state")
    for (audit, state), number in made.items():
        counted[audit][state] = number
    return {"guided": _outcome(counted[False]), "audit": _outcome(counted[True])}


def _synthetic(session: Session, dataset_id: uuid.UUID) -> list[Counted]:
    counted = tallies.read(session, "sample", [dataset_id])
    return [each for each in counted if each.facts["origin"] == "synthetic"]


def _outcome(states: Mapping[str, int]) -> dict[str, Any]:
    decided = sum(states.get(state, 0) for state in STATE_OF.values())
    rejected = states.get("rejected", 0)
    return {
        "made": sum(states.values()),
        "decided": decided,
        "rejected": rejected,
        "reject_rate": rejected / decided if decided else None,
    }


def _settle_correction(session: Session, sample: Sample, rewrite: str | None) -> None:
    """Keep exactly the correction that the deciding review asks for; texts never change, so
    an earlier one is withdrawn (filtered) and another rewrite is another sample."""
    corrections = session.scalars(select(Sample).where(Sample.corrects == sample.id)).all()
    for correction in corrections:
        wanted = correction.text == rewrite
        correction.state = "accepted" if wanted else "filtered"
        correction.filter_reason = None if wanted else "withdrawn"
    if rewrite and not any(correction.text == rewrite for correction in corrections):
        session.add(_correction(sample, rewrite))
        outbox.owe(session, outbox.EMBED, sample.dataset_id)


def _correction(sample: Sample, rewrite: str) -> Sample:
    return Sample(
        dataset_id=sample.dataset_id,
        origin="corrected",
        state="accepted",
        text=rewrite,
        text_sha256=hashlib.sha256(rewrite.encode()).digest(),
        label=sample.label,
        corrects=sample.id,
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _label_studio_id(thing: Any) -> int | None:
    """The id of an annotation or project, if it is one that Label Studio can have given."""
    id_ = thing.get("id") if isinstance(thing, dict) else None
    return id_ if type(id_) is int and 0 < id_ < 2**31 else None


def _event_digest(payload: dict[str, Any]) -> str:
    """Label Studio gives events no id: what they are about stands in for one."""
    annotation = payload.get("annotation")
    about = (
        [annotation.get("id"), annotation.get("updated_at"), payload.get("action")]
        if isinstance(annotation, dict)
        else payload
    )
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
