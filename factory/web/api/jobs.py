"""Jobs: submitted, watched, held and ended."""

import uuid
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from flask import request
from pydantic import BaseModel, ConfigDict, Field, RootModel
from sqlalchemy.orm import Session

from factory import datasets, experiments, jobs, models, tables
from factory.errors import Conflict, FieldError, Invalid, NotFound
from factory.settings import Settings
from factory.spec import (
    DEMO_BASE,
    AnySpec,
    EvaluateSpec,
    GenerateSpec,
    JobSpec,
    Name,
    SweepSpec,
    TrainSpec,
)
from factory.web import inputs, shapes, show
from factory.web.api.blueprint import PREFIX, blueprint
from factory.web.api.requests import ACCEPTED, answered
from factory.web.openapi import document, ref
from factory.web.paging import PageQuery, page
from factory.web.state import current

FoundT = TypeVar("FoundT")

SUBMITTED: dict[int, Any] = {
    200: document("The job that this key was used for", "application/json", schema=ref("Job")),
    409: "The key was used for another body",
}
PREVIEW_COUNT = 8  # samples with guidance, and as many without

routes = blueprint("jobs")


class NewJob(RootModel[JobSpec]):
    """A job to be done."""


class PreviewSpec(GenerateSpec):
    """A generate job of which a few samples are made and none is stored."""

    count: int = Field(4, ge=1, description=f"At most {PREVIEW_COUNT} are made")


class UsePoint(BaseModel):
    """Settings of a sweep."""

    model_config = ConfigDict(extra="forbid")

    position: int | None = Field(None, ge=0, le=100_000, description="Default: the recommended")


class SubmitHeaders(BaseModel):
    """How a submission is known when it is repeated."""

    idempotency_key: Annotated[str, Field(pattern=r"^[!-~]{1,255}$")] | None = Field(
        None, description="The same key and body again: the same job. 1 to 255 visible characters"
    )


class JobQuery(PageQuery):
    """Which jobs."""

    model_config = ConfigDict(extra="forbid")

    dataset: Name | None = None
    state: shapes.JobState | None = None


@routes.post("/jobs")
@routes.input(SubmitHeaders, location="headers", arg_name="headers")
@routes.input(NewJob, arg_name="new")
@routes.output(shapes.Job, status_code=201)
@routes.doc(responses=SUBMITTED)
def submit_job(headers: SubmitHeaders, new: NewJob) -> tuple[Any, int, dict[str, str]]:
    """Submit a job.

    A dataset or model that does not exist is an error of that field (422).
    """
    state, body, key = current(), inputs.read_json(request), headers.idempotency_key
    with state.db.transaction() as session:
        job, is_new = (jobs.submitted(session, body, key) if key else None), False
        if job is None:
            dataset, model = _parts(session, state.settings, new.root)
            job, is_new = submitted(session, new.root, dataset, model, body, key)
        location = {"Location": f"{PREFIX}/jobs/{job.id}"}
        return shown(session, job), 201 if is_new else 200, location


@routes.post("/jobs/preview")
@routes.input(PreviewSpec, arg_name="spec")
@routes.output(shapes.Preview)
@routes.doc(responses=ACCEPTED)
def preview_job(spec: PreviewSpec) -> Any:
    """Make a few samples with guidance and, from the same seeds, without. Nothing is stored."""
    state = current()
    with state.db.transaction() as session:
        dataset, _ = _parts(session, state.settings, spec)
        whole = experiments.filled(dataset, spec)
    few = {"count": min(whole.count, PREVIEW_COUNT), "prompt": whole.prompt or dataset.prompt}
    return answered("preview", {"spec": whole.model_copy(update=few).model_dump(mode="json")})


@routes.get("/jobs")
@routes.input(JobQuery, location="query", arg_name="query")
@routes.output(shapes.JobPage)
def list_jobs(query: JobQuery) -> dict[str, Any]:
    """List jobs, newest first."""
    with current().db.transaction() as session:
        dataset_id = _dataset(session, query.dataset).id if query.dataset else None
        return page(
            lambda n: jobs.list_page(
                session, dataset_id=dataset_id, state=query.state, before=query.before, limit=n
            ),
            query.limit,
            lambda row: shown(session, row),
        )


@routes.get("/jobs/<uuid:job_id>")
@routes.output(shapes.Job)
def get_job(job_id: uuid.UUID) -> dict[str, Any]:
    """Show a job and how far it is."""
    with current().db.transaction() as session:
        return shown(session, jobs.get(session, job_id))


@routes.get("/jobs/<uuid:job_id>/shards")
@routes.output(shapes.ShardPage)
def list_shards(job_id: uuid.UUID) -> dict[str, Any]:
    """List a job's shards in order, all on one page."""
    with current().db.transaction() as session:
        job = jobs.get(session, job_id)
        shards = jobs.shards_of(session, job.id)
        return {"items": [show.shard(shard) for shard in shards], "next_cursor": None}


@routes.post("/jobs/<uuid:job_id>/cancel")
@routes.output(shapes.Job)
@routes.doc(responses=[409])
def cancel_job(job_id: uuid.UUID) -> dict[str, Any]:
    """End a job now. What it has made stays."""
    with current().db.transaction() as session:
        return shown(session, jobs.cancel(session, job_id))


@routes.post("/jobs/<uuid:job_id>/pause")
@routes.output(shapes.Job)
@routes.doc(responses=[409])
def pause_job(job_id: uuid.UUID) -> dict[str, Any]:
    """Hold a job; its workers stop within one batch."""
    with current().db.transaction() as session:
        return shown(session, jobs.pause(session, job_id))


@routes.post("/jobs/<uuid:job_id>/resume")
@routes.output(shapes.Job)
@routes.doc(responses=[409])
def resume_job(job_id: uuid.UUID) -> dict[str, Any]:
    """Go on with a paused job."""
    with current().db.transaction() as session:
        return shown(session, jobs.resume(session, job_id))


@routes.post("/jobs/<uuid:job_id>/push")
@routes.output(shapes.Pushed, status_code=202)
def push_job(job_id: uuid.UUID) -> dict[str, Any]:
    """Put every sample of a job that is not on its way yet on its way to review."""
    with current().db.transaction() as session:
        return {"owed": jobs.push(session, job_id)}


@routes.post("/jobs/<uuid:job_id>/use")
@routes.input(UsePoint, arg_name="point")
@routes.output(shapes.Dataset)
@routes.doc(responses=[409])
def use_settings(job_id: uuid.UUID, point: UsePoint) -> dict[str, Any]:
    """Make settings that a sweep tried the dataset's defaults."""
    with current().db.transaction() as session:
        dataset = experiments.use(session, job_id, point.position)
        return show.dataset(dataset, datasets.counts(session, dataset))


def submitted(
    session: Session,
    spec: AnySpec,
    dataset: tables.Dataset,
    model: tables.ModelPair | None,
    body: Any,
    key: str | None,
) -> tuple[tables.Job, bool]:
    """The job of a spec, filled with the dataset's defaults; and whether it is new."""
    if isinstance(spec, SweepSpec) and model is not None:
        return experiments.submit(session, spec, dataset, model, request=body, idempotency_key=key)
    whole = experiments.filled(dataset, spec) if isinstance(spec, GenerateSpec) else spec
    return jobs.submit(session, whole, dataset, model, request=body, idempotency_key=key)


def shown(session: Session, job: tables.Job) -> dict[str, Any]:
    """A job with its progress, as the API shows it."""
    return show.job(job, jobs.progress(session, job))


def _parts(
    session: Session, settings: Settings, spec: AnySpec
) -> tuple[tables.Dataset, tables.ModelPair | None]:
    """The dataset and the model pair that a spec names. Raises Invalid or Conflict."""
    dataset = _dataset(session, spec.dataset)
    if isinstance(spec, EvaluateSpec):
        check_evaluated(session, spec, dataset)
        return dataset, None
    if isinstance(spec, GenerateSpec):
        check_label(spec, dataset)
    if not isinstance(spec, TrainSpec):
        return dataset, _named("model", lambda: models.get(session, spec.model))
    if models.exists(session, spec.model) or jobs.is_training(session, spec.model):
        raise Conflict(f"There is a model pair named '{spec.model}' already, or one in training.")
    if spec.base != DEMO_BASE:
        models.check_base(settings, spec.base)
    return dataset, None


def check_evaluated(session: Session, spec: EvaluateSpec, dataset: tables.Dataset) -> None:
    """Raise Invalid when the job to be evaluated has made no samples of the dataset."""
    if spec.job is None:
        return
    job = _named("job", lambda: jobs.get(session, spec.job or uuid.UUID(int=0)))
    if job.kind != "generate" or job.dataset_id != dataset.id:
        reason = f"Job {job.id} makes no samples of dataset '{dataset.name}'."
        raise Invalid(reason, [FieldError("job", reason)])


def check_label(spec: GenerateSpec, dataset: tables.Dataset) -> None:
    """Raise Invalid when the samples would carry a label that the dataset does not know."""
    if spec.label is not None and dataset.labels and spec.label not in dataset.labels:
        reason = f"Dataset '{dataset.name}' has no label '{spec.label}'."
        raise Invalid(reason, [FieldError("label", reason)])


def _dataset(session: Session, name: str) -> tables.Dataset:
    return _named("dataset", lambda: datasets.get(session, name))


def _named(field: str, find: Callable[[], FoundT]) -> FoundT:
    """What `find` finds; a field that names nothing is an error of that field."""
    try:
        return find()
    except NotFound as error:
        raise Invalid(error.detail, [FieldError(field, error.detail)]) from error
