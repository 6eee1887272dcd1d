"""Annotations → reviews. Label Studio is the truth; what it says now replaces what we held.

Webhook events only say where to look: the tasks that they name are fetched again. Fetches may
overtake each other; each task's `updated_at` says which one is newer.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy.orm import Session

from factory import log, reviews
from factory.db import Database
from factory.errors import NotFound
from factory.reviews import Known
from factory.tables import WebhookEvent
from workers.labelstudio.client import Client, Task
from workers.labelstudio.verdicts import parse

EVENTS = 200  # events handled at once

logger = log.get(__name__)


def handle_events(database: Database, client: Client) -> int:
    """Fetch again what every waiting event is about; returns how many events were handled."""
    total = 0
    while events := database.retrying(partial(reviews.unhandled, limit=EVENTS)):
        for project_id, task_ids in _tasks_of(database, events).items():
            _refresh_existing(database, client, project_id, sorted(task_ids))
        database.retrying(partial(_mark_handled, events=events))
        total += len(events)
    return total


def refresh(database: Database, client: Client, project_id: int, task_ids: Sequence[int]) -> int:
    """Bring the reviews of these tasks up to date; returns how many samples changed.

    Raises NotFound when the project is gone.
    """
    known = database.retrying(  # before fetching: what comes later is not ours
        partial(reviews.known, project_id=project_id, task_ids=task_ids)
    )
    for task_id in set(task_ids) - set(known):
        logger.info("labelstudio.unknown_task", project=project_id, task=task_id)
    found = client.tasks(project_id, sorted(known))
    gone = set(known) - {task.id for task in found}
    if gone and client.project(project_id) is None:
        raise NotFound(f"Label Studio has no project {project_id} any more.")
    return settle(database, known, found) + _forget(database, known, gone)


def settle(database: Database, known: Mapping[int, Known], found: Iterable[Task]) -> int:
    """Bring the reviews of fetched tasks to what they say; returns how many samples changed."""
    ours = [(known[task.id], task) for task in found if task.id in known]
    return sum(_settle_task(database, mine, task) for mine, task in ours if _is_news(mine, task))


def _is_news(mine: Known, task: Task) -> bool:
    return mine.updated_at != task.updated_at or mine.gone is not None


def _settle_task(database: Database, mine: Known, task: Task) -> bool:
    said = [verdict for annotation in task.annotations if (verdict := parse(annotation))]
    return database.retrying(lambda s: reviews.settle(s, mine, said, task.updated_at))


def _forget(database: Database, known: Mapping[int, Known], gone: Iterable[int]) -> int:
    """Tasks that were deleted in Label Studio: their reviews no longer count."""
    news = [known[task_id] for task_id in gone if known[task_id].gone is None]
    return sum(
        database.retrying(partial(reviews.settle, mine=mine, said=(), updated_at=None))
        for mine in news
    )


def _mark_handled(session: Session, events: Sequence[WebhookEvent]) -> None:
    reviews.mark_handled(session, *(event.id for event in events))


def _tasks_of(database: Database, events: Sequence[WebhookEvent]) -> dict[int, set[int]]:
    """The tasks that events are about, by project."""
    tasks: dict[int, set[int]] = defaultdict(set)
    for event in events:
        if event.project_id is None:
            logger.warning("labelstudio.event_without_project", event_id=str(event.id))
            continue
        earlier = database.retrying(
            partial(reviews.tasks_of_annotations, annotation_ids=event.annotation_ids)
        )
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
