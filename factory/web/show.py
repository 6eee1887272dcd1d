"""How rows become what the API answers with."""

from typing import Any

from factory import tables
from factory.feedback import Feedback
from factory.jobs import Progress
from factory.web import shapes


def dataset(row: tables.Dataset, counts: dict[str, dict[str, int]]) -> dict[str, Any]:
    """A dataset as the API shows it."""
    feedback = Feedback.model_validate(row.feedback)
    return _columns(row, shapes.Dataset, counts=counts, feedback=feedback.model_dump(mode="json"))


def sample(row: tables.Sample, dataset_name: str) -> dict[str, Any]:
    """A sample as the API shows it."""
    return _columns(
        row,
        shapes.Sample,
        dataset=dataset_name,
        job=row.job_id,
        shard=row.shard_id,
        tokens=row.token_count,
    )


def review(row: tables.Review) -> dict[str, Any]:
    """A review as the API shows it."""
    return _columns(row, shapes.Review, sample=row.sample_id, annotation=row.annotation_id)


def model(row: tables.ModelPair) -> dict[str, Any]:
    """A model pair as the API shows it."""
    return _columns(row, shapes.ModelPair)


def job(row: tables.Job, progress: Progress) -> dict[str, Any]:
    """A job as the API shows it."""
    spec = row.spec
    return _columns(
        row,
        shapes.Job,
        dataset=spec["dataset"],
        model=spec.get("model"),
        parent=row.parent_id,
        progress=progress.__dict__,
    )


def evaluation(row: tables.Job) -> dict[str, Any]:
    """What an evaluate job that is done has found, as the API shows it."""
    result = row.result or {}
    found = {name: result[name] for name in ("samples", "real", "measures", "reference")}
    return {"job": row.id, "of": row.spec["job"], "ended_at": row.ended_at, **found}


def request(row: tables.Request) -> dict[str, Any]:
    """A request as the API shows it."""
    state = "pending" if row.done_at is None else "failed" if row.error else "done"
    return _columns(row, shapes.Request, state=state)


def token(row: tables.ApiToken, **more: str) -> dict[str, Any]:
    """A token as the API shows it."""
    return _columns(row, shapes.NewToken if more else shapes.Token, **more)


def shard(row: tables.Shard) -> dict[str, Any]:
    """A shard as the API shows it."""
    return _columns(row, shapes.Shard)


def _columns(row: Any, shape: type[shapes.Shape], **given: Any) -> dict[str, Any]:
    """The row's columns of the same name, and what is given beside them."""
    return {name: getattr(row, name) for name in shape.model_fields if name not in given} | given
