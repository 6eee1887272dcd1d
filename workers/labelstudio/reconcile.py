"""Compare a dataset's reviews with its project, whatever events were missed.

As a rule only the tasks that changed since the last time are fetched: all that is done to an
annotation changes its task. Where the counts of tasks and annotations then still differ from
ours, and once an hour, every task is looked at. That finds deleted tasks, and tasks that were
made twice because a reply was lost while Label Studio still worked on the request.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from factory import log, pushes, reviews
from factory.db import Database
from factory.reviews import Known
from factory.settings import Settings
from factory.tables import Dataset
from workers.labelstudio.client import Client, Json, Task
from workers.labelstudio.project import ensure_webhook, find_project
from workers.labelstudio.refresh import refresh, settle

OVERLAP = timedelta(seconds=60)  # what Label Studio may take to store a change
WHOLE = timedelta(hours=1)

logger = log.get(__name__)


@dataclass(frozen=True)
class _Reconciling:
    """One dataset's project while it is compared."""

    database: Database
    client: Client
    dataset_id: uuid.UUID
    project_id: int


def reconcile_dataset(
    database: Database, client: Client, settings: Settings, dataset_id: uuid.UUID
) -> int:
    """Bring a dataset's reviews to what Label Studio says; returns how many samples changed.

    Without its project, samples that have no review wait to be pushed into a new one.
    """
    project = find_project(database, client, dataset_id)
    if project is None:
        return 0
    at_work = _Reconciling(database, client, dataset_id, int(project["id"]))
    until = client.clock - OVERLAP
    ensure_webhook(client, settings, at_work.project_id)
    dataset = database.retrying(lambda s: s.get_one(Dataset, dataset_id))
    changed, whole = 0, _is_old(dataset.reviews_compared_at)
    if dataset.reviews_until is not None and not whole:
        changed = _compare_changed(at_work, dataset.reviews_until)
        whole = _differs(at_work)
    if whole:
        changed += _compare_all(at_work)
    database.retrying(
        lambda s: reviews.reconciled(s, dataset_id, at_work.project_id, until, whole=whole)
    )
    logger.info("labelstudio.reconciled", project=at_work.project_id, whole=whole, changed=changed)
    return changed


def _is_old(compared_at: datetime | None) -> bool:
    return compared_at is None or compared_at < datetime.now(UTC) - WHOLE


def _compare_changed(at_work: _Reconciling, since: datetime) -> int:
    known = _known(at_work)
    pages = at_work.client.changed_tasks(at_work.project_id, since)
    return sum(settle(at_work.database, known, page) for page in pages)


def _differs(at_work: _Reconciling) -> bool:
    """Whether Label Studio counts other tasks or annotations than we do."""
    project: Json = at_work.client.project(at_work.project_id) or {}
    there = project.get("task_number"), project.get("total_annotations_number")
    return there != at_work.database.retrying(
        partial(reviews.counted, project_id=at_work.project_id)
    )


def _compare_all(at_work: _Reconciling) -> int:
    known = _known(at_work)
    changed, there, strangers = 0, dict[int, Task](), list[Task]()
    for page in at_work.client.all_tasks(at_work.project_id):
        changed += settle(at_work.database, known, page)
        there |= {task.id: task for task in page if task.id in known}
        strangers += [task for task in page if task.id not in known]
    _fold_doubles(at_work, known, there, strangers)
    unseen = sorted(id_ for id_ in set(known) - set(there) if known[id_].gone is None)
    if unseen:
        changed += refresh(at_work.database, at_work.client, at_work.project_id, unseen)
    return changed


def _known(at_work: _Reconciling) -> dict[int, Known]:
    return at_work.database.retrying(partial(reviews.known, project_id=at_work.project_id))


def _fold_doubles(
    at_work: _Reconciling,
    known: dict[int, Known],
    there: dict[int, Task],
    strangers: Sequence[Task],
) -> None:
    """Of two tasks of one sample keep the one with annotations, else the one we know."""
    ours = {str(known[task_id].sample_id): task for task_id, task in there.items()}
    for double in strangers:
        first = ours.get(double.sample_id or "")
        if first is None:
            continue
        if not double.annotations:
            _drop(at_work, double)
        elif not first.annotations:
            mine = known[first.id]
            at_work.database.retrying(
                partial(
                    pushes.move_task, sample_id=mine.sample_id, task_id=first.id, to_task=double.id
                )
            )
            refresh(at_work.database, at_work.client, at_work.project_id, [double.id])
            _drop(at_work, first)
            ours[str(mine.sample_id)] = double
        else:
            logger.warning("labelstudio.reviewed_twice", tasks=[first.id, double.id])


def _drop(at_work: _Reconciling, double: Task) -> None:
    at_work.client.delete_task(double.id)
    logger.info("labelstudio.double_deleted", project=at_work.project_id, task=double.id)
