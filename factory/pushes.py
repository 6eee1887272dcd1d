"""Pushes: the way of each sample to Label Studio, and which project it is in.

One row and one task for each sample. A row without a task waits; `tried` says that its task may be
there already, so that it is looked up before it is sent again.
"""

import uuid
from collections.abc import Mapping, Sequence

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from factory import outbox
from factory.tables import Dataset, Push, Review, Sample


def waiting(session: Session, dataset_id: uuid.UUID, limit: int) -> Sequence[tuple[Push, Sample]]:
    """Pushes that have no task yet, oldest first, with their samples."""
    statement = (
        select(Push, Sample)
        .join(Sample, Sample.id == Push.sample_id)
        .where(Push.dataset_id == dataset_id, Push.task_id.is_(None))
        .order_by(Push.sample_id)
        .limit(limit)
    )
    return [(push, sample) for push, sample in session.execute(statement)]


def add(session: Session, sample_ids: Sequence[uuid.UUID]) -> int:
    """Owe the review of those of these samples that were generated and are not on their way
    yet; returns how many."""
    ready = select(Sample.id, Sample.dataset_id).where(
        Sample.id.in_(sample_ids), Sample.state == "generated"
    )
    statement = insert(Push).from_select(["sample_id", "dataset_id"], ready)
    added = session.scalars(statement.on_conflict_do_nothing().returning(Push.dataset_id)).all()
    outbox.owe(session, outbox.PUSH, *added)
    return len(added)


def mark_tried(session: Session, sample_ids: Sequence[uuid.UUID]) -> None:
    """Note, before sending, that tasks for these samples may exist from now on."""
    session.execute(update(Push).where(Push.sample_id.in_(sample_ids)).values(tried=True))


def mark_pushed(session: Session, project_id: int, tasks: Mapping[uuid.UUID, int]) -> None:
    """Note the task of each sample; generated samples are in review from now on."""
    for sample_id, task_id in tasks.items():
        session.execute(
            update(Push)
            .where(Push.sample_id == sample_id)
            .values(
                project_id=project_id,
                task_id=task_id,
                error=None,
                pushed_at=func.coalesce(Push.pushed_at, func.clock_timestamp()),
            )
        )
    session.execute(
        update(Sample)
        .where(Sample.id.in_(list(tasks)), Sample.state == "generated")
        .values(state="in_review")
    )


def note_error(session: Session, dataset_id: uuid.UUID, error: str) -> None:
    """Keep why the waiting samples of a dataset could not be pushed."""
    statement = update(Push).where(
        Push.dataset_id == dataset_id, Push.task_id.is_(None), Push.error.is_distinct_from(error)
    )
    session.execute(statement.values(error=error))


def first_error(session: Session) -> str | None:
    """Why samples that wait for Label Studio could not be pushed, if they were tried."""
    statement = select(Push.error).where(Push.task_id.is_(None), Push.error.is_not(None))
    return session.scalar(statement.limit(1))


def number_waiting(session: Session) -> int:
    """How many samples of all datasets wait for their task."""
    return session.scalar(select(func.count()).where(Push.task_id.is_(None))) or 0


def is_project(session: Session, dataset_id: uuid.UUID, project_id: int) -> bool:
    """Whether it is the dataset's project now, and will be until this transaction ends."""
    dataset = session.get_one(
        Dataset, dataset_id, with_for_update={"key_share": True}, populate_existing=True
    )
    return dataset.label_studio_project == project_id


def release(session: Session, dataset_id: uuid.UUID, project_id: int) -> int:
    """The dataset's project is gone, or is another's: samples without a review wait to be pushed
    anew; reviews stay, and nothing there can withdraw them. Returns how many wait."""
    if not is_project(session, dataset_id, project_id):
        return 0
    mine = Push.dataset_id == dataset_id, Push.project_id == project_id
    live = select(Review.sample_id).where(Review.deleted_at.is_(None))
    again = update(Push).where(*mine, Push.error.is_(None), Push.sample_id.not_in(live))
    cleared = {"project_id": None, "task_id": None, "task_updated_at": None, "tried": False}
    waiting = session.scalars(again.values(cleared).returning(Push.sample_id)).all()
    session.execute(
        update(Sample)
        .where(Sample.id.in_(waiting), Sample.state == "in_review")
        .values(state="generated")
    )
    kept = update(Push).where(*mine).values(project_id=None).returning(Push.sample_id)
    reviewed = session.scalars(kept).all()
    session.execute(  # another Label Studio may give the same numbers
        update(Review).where(Review.sample_id.in_([*waiting, *reviewed])).values(annotation_id=None)
    )
    session.execute(
        update(Dataset)
        .where(Dataset.id == dataset_id)
        .values(label_studio_project=None, reviews_until=None, reviews_compared_at=None)
    )
    if waiting:
        outbox.owe(session, outbox.PUSH, dataset_id)
    return len(waiting)


def of_sample(session: Session, sample_id: uuid.UUID) -> Push | None:
    """A sample's way to Label Studio, if it was to be reviewed."""
    return session.get(Push, sample_id)


def to_review(session: Session, dataset_id: uuid.UUID, limit: int) -> Sequence[tuple[Push, Sample]]:
    """Samples that lie in Label Studio without a verdict, oldest first."""
    statement = (
        select(Push, Sample)
        .join(Sample, Sample.id == Push.sample_id)
        .where(Sample.dataset_id == dataset_id, Sample.origin == "synthetic")
        .where(Sample.state == "in_review", Push.task_id.is_not(None))
        .order_by(Sample.id)
        .limit(limit)
    )
    return [(push, sample) for push, sample in session.execute(statement)]


def of_samples(session: Session, sample_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, Push]:
    """The way to Label Studio of each of these samples that has one."""
    rows = session.scalars(select(Push).where(Push.sample_id.in_(sample_ids)))
    return {push.sample_id: push for push in rows}


def move_task(session: Session, sample_id: uuid.UUID, task_id: int, to_task: int) -> None:
    """The sample's task is another one from now on: its double."""
    statement = update(Push).where(Push.sample_id == sample_id, Push.task_id == task_id)
    session.execute(statement.values(task_id=to_task, task_updated_at=None, error=None))
