"""Samples → tasks, each sample once, whatever is lost on the way.

Before a chunk is sent its rows are marked as tried, in a transaction of their own. A row that
was tried before is looked up by its `sample_id` before it is sent again, so that a reply that
never came does not double a task.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session, undefer

from factory import log, pushes
from factory.db import Database
from factory.errors import Unavailable
from factory.settings import Settings
from factory.tables import Job, ModelPair, Sample
from workers.decoding.records import Trace
from workers.labelstudio import form
from workers.labelstudio.client import Client, Json
from workers.labelstudio.project import ensure_project, ensure_webhook

CHUNK = 200  # tasks in one import

logger = log.get(__name__)


@dataclass(frozen=True)
class Outgoing:
    """One sample on its way: its task, and whether it may be there already."""

    sample_id: uuid.UUID
    tried: bool
    task: Json


def push_dataset(
    database: Database, client: Client, settings: Settings, dataset_id: uuid.UUID
) -> int:
    """Make a task of every sample that waits for review; returns how many went.

    Only one process may do this for a dataset at a time.
    """
    project_id = ensure_project(database, client, dataset_id)
    ensure_webhook(client, settings, project_id)
    total = 0
    while chunk := _take(database, settings, dataset_id):
        tasks = _send(client, project_id, chunk)
        database.retrying(partial(_note, dataset_id=dataset_id, project_id=project_id, tasks=tasks))
        total += len(tasks)
    logger.info("labelstudio.pushed", dataset=str(dataset_id), project=project_id, tasks=total)
    return total


def _note(
    session: Session, dataset_id: uuid.UUID, project_id: int, tasks: Mapping[uuid.UUID, int]
) -> None:
    if not pushes.is_project(session, dataset_id, project_id):
        raise Unavailable(f"The Label Studio project {project_id} was given up meanwhile.")
    pushes.mark_pushed(session, project_id, tasks)


def _take(database: Database, settings: Settings, dataset_id: uuid.UUID) -> list[Outgoing]:
    """The next chunk, marked as tried before anything is sent."""

    def take(session: Session) -> list[Outgoing]:
        rows = pushes.waiting(session, dataset_id, CHUNK)
        tried = {sample.id: push.tried for push, sample in rows}
        tasks = _tasks(session, settings, [sample.id for _, sample in rows])
        pushes.mark_tried(session, list(tried))
        return [Outgoing(id_, tried[id_], task) for id_, task in tasks.items()]

    return database.retrying(take)


def _send(client: Client, project_id: int, chunk: Sequence[Outgoing]) -> dict[uuid.UUID, int]:
    there = client.find_tasks(project_id, [out.sample_id for out in chunk if out.tried])
    missing = [out.task for out in chunk if out.sample_id not in there]
    return there | (client.import_tasks(project_id, missing) if missing else {})


def _tasks(
    session: Session, settings: Settings, sample_ids: Sequence[uuid.UUID]
) -> dict[uuid.UUID, Json]:
    statement = (
        select(Sample, ModelPair.name)
        .outerjoin(Job, Job.id == Sample.job_id)
        .outerjoin(ModelPair, ModelPair.id == Job.model_id)
        .where(Sample.id.in_(sample_ids))
        .options(undefer(Sample.trace))
        .order_by(Sample.id)
    )
    rows = session.execute(statement).tuples()
    return {sample.id: _task(settings, sample, model) for sample, model in rows}


def _task(settings: Settings, sample: Sample, model: str | None) -> Json:
    page = f"{settings.url.rstrip('/')}/samples/{sample.id}"
    api = f"{settings.url.rstrip('/')}/api/v1/samples/{sample.id}"
    task: Json = {
        "data": {
            "text": sample.text,
            "sample_id": str(sample.id),
            "job": str(sample.job_id) if sample.job_id else None,
            "ordinal": sample.ordinal,
            "url": page,
        },
        "meta": {"provenance": f"{api}/provenance", "sample": page},
    }
    if model is not None:
        version = f"{model} (job {sample.job_id})"
        task["predictions"] = [form.prediction(version, confidence(sample.trace))]
    return task


def confidence(trace: bytes | None) -> float | None:
    """Mean probability, under the unsteered expert, of the tokens that were chosen.

    In [0, 1]; None without a trace or tokens.
    """
    if trace is None:
        return None
    log_probabilities = Trace.from_bytes(trace).expert
    return float(np.exp(log_probabilities).mean()) if len(log_probabilities) else None
