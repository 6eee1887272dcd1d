"""One sample: how it was made, what is like it, and making it again."""

import uuid
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from factory import near_copies, negatives, pushes, reviews, samples, tables
from factory.web import shapes, show
from factory.web.api.blueprint import blueprint
from factory.web.api.requests import ACCEPTED, answered
from factory.web.state import current

routes = blueprint("samples")


class NeighbourQuery(BaseModel):
    """How many neighbours."""

    model_config = ConfigDict(extra="forbid")

    k: int = Field(10, ge=1, le=100)


class NewMark(BaseModel):
    """What to do with a sample as a negative."""

    model_config = ConfigDict(extra="forbid")

    kind: negatives.MarkKind


@routes.get("/samples/<uuid:sample_id>")
@routes.output(shapes.SampleDetail)
def get_sample(sample_id: uuid.UUID) -> dict[str, Any]:
    """Show a sample with its reviews."""
    with current().db.transaction() as session:
        row = samples.get(session, sample_id)
        push = pushes.of_sample(session, sample_id)
        return show.sample(row, _dataset_name(session, row)) | {
            "reviews": [show.review(review) for review in reviews.of_sample(session, sample_id)],
            "task": push.task_id if push else None,
            "near_copy": near_copies.of_samples(session, [sample_id]).get(sample_id),
        }


@routes.get("/samples/<uuid:sample_id>/provenance")
@routes.output(shapes.Provenance)
@routes.doc(responses=[409])
def get_provenance(sample_id: uuid.UUID) -> dict[str, Any]:
    """Show everything that is needed to make a generated sample again."""
    with current().db.transaction() as session:
        return samples.provenance(session, sample_id)


@routes.get("/samples/<uuid:sample_id>/neighbors")
@routes.input(NeighbourQuery, location="query", arg_name="query")
@routes.output(shapes.Neighbours)
@routes.doc(responses=[409])
def list_neighbours(sample_id: uuid.UUID, query: NeighbourQuery) -> dict[str, Any]:
    """List the nearest samples of the dataset, nearest first."""
    with current().db.transaction() as session:
        near = samples.neighbours(session, sample_id, query.k)
        name = _dataset_name(session, samples.get(session, sample_id))
        items = [show.sample(row, name) | {"similarity": close} for row, close in near]
        return {"items": items, "next_cursor": None}


@routes.post("/samples/<uuid:sample_id>/replay")
@routes.output(shapes.Replay)
@routes.doc(responses={**ACCEPTED, 409: "Not a generated sample"})
def replay_sample(sample_id: uuid.UUID) -> Any:
    """Make a generated sample again from its provenance, and compare the tokens."""
    return _from_worker("replay", sample_id)


@routes.get("/samples/<uuid:sample_id>/explanation")
@routes.output(shapes.Explanation)
@routes.doc(responses={**ACCEPTED, 409: "Not a generated sample"})
def explain_sample(sample_id: uuid.UUID) -> Any:
    """Show what moved each token of a generated sample."""
    return _from_worker("explanation", sample_id)


@routes.put("/samples/<uuid:sample_id>/mark")
@routes.input(NewMark, arg_name="new")
@routes.output(shapes.Mark)
@routes.doc(responses=[409])
def mark_sample(sample_id: uuid.UUID, new: NewMark) -> dict[str, Any]:
    """Pin or retire a sample as a negative.

    Every further sample is steered away from a pinned one, none from a retired one. How earlier
    samples were made stays as it is.
    """
    with current().db.transaction() as session:
        negatives.mark(session, samples.get(session, sample_id), new.kind)
    return {"sample": sample_id, "kind": new.kind}


@routes.delete("/samples/<uuid:sample_id>/mark")
@routes.output(shapes.Mark)
def unmark_sample(sample_id: uuid.UUID) -> dict[str, Any]:
    """Draw a sample as a negative as any other again."""
    with current().db.transaction() as session:
        negatives.unmark(session, samples.get(session, sample_id).id)
    return {"sample": sample_id, "kind": None}


def _from_worker(kind: str, sample_id: uuid.UUID) -> Any:
    with current().db.transaction() as session:
        samples.get_synthetic(session, sample_id)
    return answered(kind, {"sample": str(sample_id)})


def _dataset_name(session: Session, row: tables.Sample) -> str:
    return session.get_one(tables.Dataset, row.dataset_id).name
