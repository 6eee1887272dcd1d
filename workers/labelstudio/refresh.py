"""Annotations → reviews. Label Studio is the truth; what it says now replaces what we held.

Webhook events only say where to look. Some tasks (those that events name) or all of a project
(reconciling) are fetched again, and each sample's reviews are brought to what was fetched.
"""

import uuid
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from factory import log, reviews
from factory.db import Database
from factory.errors import NotFound
from factory.reviews import Known
from factory.settings import Settings
from factory.tables import Dataset, WebhookEvent
from workers.labelstudio.client import Annotations, Client
from workers.labelstudio.project import ensure_webhook
from workers.labelstudio.verdicts import Annotation, parse

EVENTS = 200  # events handled at once

logger = log.get(__name__)


def handle_events(database: Database, client: Client) -> int:
    """Fetch again what every waiting event is about; returns how many events were handled.

    Only one process may do this at a time.
    """
    total = 0
    while True:
        with database.transaction() as session:
            events = reviews.unhandled(session, EVENTS)
        if not events:
            return total
        for project_id, task_ids in _tasks_of(database, events).items():
            _refresh_existing(database, client, project_id, sorted(task_ids))
        with database.transaction() as session:
            reviews.mark_handled(session, *(event.id for event in events))
        total += len(events)


def refresh(database: Database, client: Client, project_id: int, task_ids: Sequence[int]) -> int:
    """Bring the reviews of these tasks up to date; returns how many samples changed.

    Raises NotFound when the project is gone.
    """
    with database.transaction() as session:  # before fetching: what comes later is not ours
        known = reviews.known(session, project_id, task_ids)
    found = client.annotations(project_id, sorted(known))
    for task_id in set(task_ids) - set(known):
        logger.info("labelstudio.unknown_task", project=project_id, task=task_id)
    return _settle(database, known, found) + _forget_gone(database, known, set(known) - set(found))


def reconcile_dataset(
    database: Database, client: Client, settings: Settings, dataset_id: uuid.UUID
) -> int:
    """Compare every task of a dataset with Label Studio; returns how many samples changed."""
    with database.transaction() as session:
        project_id = session.get_one(Dataset, dataset_id).label_studio_project
        known = reviews.known(session, project_id) if project_id is not None else {}
    if project_id is None:
        return 0
    ensure_webhook(client, settings, project_id)
    changed, seen = 0, set[int]()
    for page in client.all_annotations(project_id):
        changed += _settle(database, known, page)
        seen.update(page)
    unseen = sorted(set(known) - seen)
    changed += refresh(database, client, project_id, unseen) if unseen else 0
    logger.info("labelstudio.reconciled", project=project_id, tasks=len(seen), changed=changed)
    return changed


def _tasks_of(database: Database, events: Sequence[WebhookEvent]) -> dict[int, set[int]]:
    """The tasks that events are about, by project."""
    tasks: dict[int, set[int]] = defaultdict(set)
    for event in events:
        if event.project_id is None:
            logger.warning("labelstudio.event_without_project", event_id=str(event.id))
            continue
        with database.transaction() as session:
            earlier = reviews.tasks_of_annotations(session, event.annotation_ids)
        tasks[event.project_id].update(earlier, named_tasks(event.payload))
    return tasks


def named_tasks(payload: dict[str, Any]) -> set[int]:
    """The task ids that an event's payload names. It came from outside: nothing is taken for
    granted."""
    annotation = payload.get("annotation")
    listed = payload.get("tasks")
    ids = [annotation.get("task")] if isinstance(annotation, dict) else []
    for task in [payload.get("task"), *(listed if isinstance(listed, list) else [])]:
        ids.append(task.get("id") if isinstance(task, dict) else None)
    return {id_ for id_ in ids if isinstance(id_, int) and 0 < id_ < 2**31}


def _refresh_existing(
    database: Database, client: Client, project_id: int, task_ids: Sequence[int]
) -> None:
    try:
        refresh(database, client, project_id, task_ids)
    except NotFound as error:
        logger.warning("labelstudio.project_gone", project=project_id, error=error.detail)


def _settle(database: Database, known: dict[int, Known], found: Annotations) -> int:
    tasks = [(known[task_id], said) for task_id, said in found.items() if task_id in known]
    return sum(_settle_sample(database, mine, said) for mine, said in tasks)


def _settle_sample(database: Database, mine: Known, said: Sequence[Annotation]) -> bool:
    """Bring one sample's reviews to what Label Studio said; returns whether anything changed."""
    verdicts = [verdict for annotation in said if (verdict := parse(annotation))]
    changed = [v for v in verdicts if mine.annotations.get(v.annotation_id) != v.updated_at]
    withdrawn = set(mine.annotations) - {verdict.annotation_id for verdict in verdicts}
    if not changed and not withdrawn:
        return False
    with database.transaction() as session:
        for annotation_id in withdrawn:
            reviews.withdraw(session, annotation_id)
        for verdict in changed:
            reviews.apply(session, mine.sample_id, verdict)
    return True


def _forget_gone(database: Database, known: dict[int, Known], gone: set[int]) -> int:
    """Tasks that were deleted in Label Studio: their reviews no longer count."""
    for task_id in gone:
        _settle_sample(database, known[task_id], ())
        with database.transaction() as session:
            reviews.note_task_gone(session, known[task_id].sample_id)
    return sum(bool(known[task_id].annotations) for task_id in gone)
