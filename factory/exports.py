"""A dataset as flat records, with how each sample was made."""

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Row, Select, select
from sqlalchemy.orm import Session

from factory.tables import Attempt, Dataset, Job, ModelPair, Sample

BATCH = 500  # records read at once


def records(
    session: Session, dataset: Dataset, states: Sequence[str], origin: str | None
) -> Iterator[dict[str, Any]]:
    """A dataset's samples, oldest first, one flat record each, with provenance columns."""
    statement = _statement(dataset, states, origin)
    after: uuid.UUID | None = None
    while True:
        page = statement if after is None else statement.where(Sample.id > after)
        rows = session.execute(page.limit(BATCH)).all()
        yield from (_record(dataset, row) for row in rows)
        if len(rows) < BATCH:
            return
        after = rows[-1].Sample.id


def _statement(dataset: Dataset, states: Sequence[str], origin: str | None) -> Select[Any]:
    statement = (
        select(Sample, Job.spec, Attempt.environment, ModelPair.name.label("model"))
        .outerjoin(Job, Job.id == Sample.job_id)
        .outerjoin(Attempt, Attempt.id == Sample.attempt_id)
        .outerjoin(ModelPair, ModelPair.id == Job.model_id)
        .where(Sample.dataset_id == dataset.id, Sample.state.in_(states))
        .order_by(Sample.id)
    )
    return statement if origin is None else statement.where(Sample.origin == origin)


def _record(dataset: Dataset, row: Row[Any]) -> dict[str, Any]:
    sample, spec = row.Sample, row.spec or {}
    guidance = spec.get("guidance", {})
    return {
        "id": str(sample.id),
        "dataset": dataset.name,
        "origin": sample.origin,
        "state": sample.state,
        "text": sample.text,
        "label": sample.label,
        "created_at": sample.created_at.isoformat(),
        "corrects": str(sample.corrects) if sample.corrects else None,
        "job": str(sample.job_id) if sample.job_id else None,
        "ordinal": sample.ordinal,
        "seed": sample.seed,
        "audit": sample.audit,
        "model": row.model,
        "rule": guidance.get("rule"),
        "gamma": guidance.get("gamma"),
        "eta": guidance.get("eta"),
        "alpha": guidance.get("alpha"),
        "nucleus": guidance.get("nucleus"),
        "temperature": spec.get("sampling", {}).get("temperature"),
        "device": (row.environment or {}).get("device"),
    }
