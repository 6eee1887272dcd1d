"""Datasets, their samples and reviews."""

import uuid
from dataclasses import asdict
from tempfile import SpooledTemporaryFile
from typing import Annotated, Any

from flask import request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from factory import datasets, jobs, levers, negatives, outbox, reviews, samples, tables
from factory.errors import Conflict, FieldError, Invalid
from factory.feedback import Feedback
from factory.spec import Defaults, Name, SampleState
from factory.web import shapes, show
from factory.web.api.blueprint import PREFIX, blueprint
from factory.web.paging import PageQuery, page
from factory.web.state import current

SPOOL_BYTES = 1024 * 1024  # an import larger than this waits in a file
NDJSON = {
    "required": True,
    "description": 'One JSON object a line: `{"text": …, "label"?: …, "meta"?: {…}}`',
    "content": {"application/x-ndjson": {}},
}

routes = blueprint("datasets")


class NewDataset(BaseModel):
    """A dataset to be made."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    prompt: str = Field(min_length=1, max_length=100_000)
    description: str = Field("", max_length=10_000)
    labels: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field([], max_length=1000)


class DatasetChange(BaseModel):
    """What is to be changed of a dataset; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    feedback: Feedback | None = None


class SampleQuery(PageQuery):
    """Which samples."""

    origin: shapes.Origin | None = None
    state: list[SampleState] = Field([], description="Any of these; may be repeated")
    job: uuid.UUID | None = None
    q: str | None = Field(None, max_length=1000, description='Words; "a phrase"; -not')
    near_copy: bool | None = Field(
        None, description="true: only those marked as near-copies; false: only the others"
    )


@routes.post("/datasets")
@routes.input(NewDataset, arg_name="new")
@routes.output(shapes.Dataset, status_code=201)
@routes.doc(responses=[409])
def create_dataset(new: NewDataset) -> tuple[Any, int, dict[str, str]]:
    """Make a dataset."""
    with current().db.transaction() as session:
        made = datasets.create(session, new.name, new.prompt, new.description, new.labels)
        return _shown(session, made), 201, {"Location": f"{PREFIX}/datasets/{made.name}"}


@routes.get("/datasets")
@routes.input(PageQuery, location="query", arg_name="query")
@routes.output(shapes.DatasetPage)
def list_datasets(query: PageQuery) -> dict[str, Any]:
    """List datasets, newest first."""
    with current().db.transaction() as session:
        return page(
            lambda n: datasets.list_all(session, before=query.before, limit=n),
            query.limit,
            lambda row: _shown(session, row),
        )


@routes.get("/datasets/<name>")
@routes.output(shapes.Dataset)
def get_dataset(name: str) -> dict[str, Any]:
    """Show a dataset with its counts."""
    with current().db.transaction() as session:
        return _shown(session, datasets.get(session, name))


@routes.patch("/datasets/<name>")
@routes.input(DatasetChange, arg_name="change")
@routes.output(shapes.Dataset)
def change_dataset(name: str, change: DatasetChange) -> dict[str, Any]:
    """Change a dataset's settings. Jobs that were submitted keep theirs."""
    with current().db.transaction() as session:
        dataset = datasets.get(session, name)
        if change.feedback is not None:
            datasets.set_feedback(dataset, change.feedback)
        return _shown(session, dataset)


@routes.post("/datasets/<name>/samples")
@routes.output(shapes.Imported)
@routes.doc(responses=[413], extensions={"requestBody": NDJSON})
def import_samples(name: str) -> dict[str, Any]:
    """Import real samples.

    NDJSON of any content type. Every valid line goes in; the others are named. The body is
    read to its end before the database is asked for anything.
    """
    with SpooledTemporaryFile(SPOOL_BYTES) as body:
        for piece in iter(lambda: request.stream.read(SPOOL_BYTES), b""):
            body.write(piece)
        if body.tell() == 0:
            raise Invalid("The body is empty.", [FieldError("", "holds no line")])
        body.seek(0)
        with current().db.transaction() as session:
            dataset = datasets.get(session, name)
            return asdict(datasets.import_lines(session, dataset, body))


@routes.get("/datasets/<name>/samples")
@routes.input(SampleQuery, location="query", arg_name="query")
@routes.output(shapes.SamplePage)
def list_samples(name: str, query: SampleQuery) -> dict[str, Any]:
    """List a dataset's samples, newest first."""
    with current().db.transaction() as session:
        dataset = datasets.get(session, name)
        return page(
            lambda n: samples.list_page(
                session,
                dataset.id,
                origin=query.origin,
                states=query.state,
                job_id=query.job,
                query=query.q,
                near_copy=query.near_copy,
                before=query.before,
                limit=n,
            ),
            query.limit,
            lambda row: show.sample(row, name),
        )


@routes.put("/datasets/<name>/defaults")
@routes.input(Defaults, arg_name="defaults")
@routes.output(shapes.Dataset)
def set_defaults(name: str, defaults: Defaults) -> dict[str, Any]:
    """Set what the dataset's generate jobs take where they leave something out; `{}` gives none."""
    with current().db.transaction() as session:
        dataset = datasets.get(session, name)
        datasets.set_defaults(dataset, defaults)
        return _shown(session, dataset)


@routes.get("/datasets/<name>/metrics")
@routes.output(shapes.Metrics)
def dataset_metrics(name: str) -> dict[str, Any]:
    """Show a dataset in numbers."""
    with current().db.transaction() as session:
        dataset = datasets.get(session, name)
        newest = jobs.newest_evaluation(session, dataset.id)
        return {
            "dataset": name,
            "counts": datasets.counts(session, dataset),
            "reviews": reviews.stats(session, dataset.id),
            **reviews.outcomes(session, dataset.id),
            "feedback": levers.state(session, dataset),
            "evaluation": show.evaluation(newest) if newest else None,
        }


@routes.get("/datasets/<name>/negatives")
@routes.input(PageQuery, location="query", arg_name="query")
@routes.output(shapes.Negatives)
def list_negatives(name: str, query: PageQuery) -> dict[str, Any]:
    """List what people rejected, and how large each pool of negatives is."""
    with current().db.transaction() as session:
        dataset = datasets.get(session, name)
        used: dict[Any, int] = {}

        def rows(n: int) -> list[tables.Sample]:
            found = negatives.list_page(session, dataset.id, before=query.before, limit=n)
            used.update({sample.id: count for sample, count in found})
            return [sample for sample, _ in found]

        marked: dict[Any, str] = {}

        def shown(row: tables.Sample) -> dict[str, Any]:
            if not marked:
                marked.update(negatives.marks(session, list(used)))
            return show.sample(row, name) | {"used": used[row.id], "mark": marked.get(row.id)}

        listed = page(rows, query.limit, shown)
        return listed | {"pools": negatives.pools(session, dataset.id)}


@routes.get("/datasets/<name>/reviews")
@routes.input(PageQuery, location="query", arg_name="query")
@routes.output(shapes.ReviewPage)
def list_reviews(name: str, query: PageQuery) -> dict[str, Any]:
    """List the reviews of a dataset's samples, newest first, withdrawn ones too."""
    with current().db.transaction() as session:
        dataset = datasets.get(session, name)
        return page(
            lambda n: reviews.list_page(session, dataset.id, before=query.before, limit=n),
            query.limit,
            show.review,
        )


@routes.post("/datasets/<name>/reviews/sync")
@routes.output(shapes.Sync, status_code=202)
@routes.doc(responses=[409])
def sync_reviews(name: str) -> dict[str, Any]:
    """Have a worker compare all reviews with Label Studio."""
    state = current()
    if not state.settings.label_studio_url:
        raise Conflict("No Label Studio is set up. Set FACTORY_LABEL_STUDIO_URL and its API key.")
    with state.db.transaction() as session:
        dataset = datasets.get(session, name)
        outbox.owe(session, outbox.RECONCILE, dataset.id)
    return {"dataset": name, "state": "owed"}


def _shown(session: Session, dataset: tables.Dataset) -> dict[str, Any]:
    return show.dataset(dataset, datasets.counts(session, dataset))
