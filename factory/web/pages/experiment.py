"""Sweeps: the list, asking for one, and one with its charts, its samples and "use these"."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from flask import flash, g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from factory import datasets, experiments, jobs, models
from factory.errors import NotFound, OverBudget
from factory.spec import SweepSpec
from factory.tables import Dataset, Job
from factory.web.pages import choices
from factory.web.pages.choices import Point
from factory.web.pages.forms import Form, nested
from factory.web.pages.frame import page, paged, pages
from factory.web.pages.job import Row, rows_of
from factory.web.pages.sweep_charts import Heatmap, Scatter, heatmap, scatter
from factory.web.state import current

pages.add_app_template_filter(choices.defaults_said, "defaults_said")

PAGE = 25
TRIED = (  # fields of the form that name values to try, with their words
    ("guidance.gamma", "Follow the expert (γ)"),
    ("guidance.eta", "Avoid what exists (η)"),
    ("guidance.nucleus", "Plausible mass"),
    ("guidance.alpha", "Plausibility floor (α)"),
    ("sampling.temperature", "Temperature"),
    ("preset", "Presets"),
)
GIVEN = ("points", "count", "objective", "method")  # a new form begins with their defaults
FIELDS = ("dataset", "model", *GIVEN, "once")


@dataclass(frozen=True)
class Sweep:
    """What the page of a sweep shows."""

    job: Job
    progress: jobs.Progress
    points: Sequence[Point]  # measured ones, best first
    best: Point | None
    plain: Point | None
    beside: Point | None  # whose texts are shown beside the unguided ones
    scatter: Scatter | None
    heatmap: Heatmap | None
    in_use: bool

    @property
    def running(self) -> bool:
        """Whether there is more to come."""
        return self.job.state in jobs.LIVE

    @property
    def seen(self) -> str:
        """Changes with whatever can be seen."""
        rounds = max((point.round for point in self.points), default=-1)
        return f"{self.job.state}-{self.progress.done}-{self.progress.failed}-{rounds}"


@pages.get("/experiments")
def experiments_list() -> ResponseReturnValue:
    """Every sweep, newest first, and the form of a new one."""
    with current().db.transaction() as session:
        return _listed(session, _blank(session))


@pages.post("/experiments")
def send_experiment() -> ResponseReturnValue:
    """Submit a sweep; the form comes back with what is wrong next to the fields."""
    values = {name: request.form.get(name, "") for name in (*FIELDS, *(f for f, _ in TRIED))}
    form = Form(values)
    body = _body(values)
    spec = form.read(SweepSpec, body)
    with current().db.transaction() as session:
        job = _submit(session, form, spec, body) if spec else None
        if job is None:
            return _listed(session, form, status=422)
    return redirect(url_for("pages.experiment", job_id=job.id), 303)


@pages.get("/experiments/<uuid:job_id>")
def experiment(job_id: uuid.UUID) -> ResponseReturnValue:
    """One sweep."""
    with current().db.transaction() as session:
        sweep = _sweep(session, job_id)
        dataset = session.get_one(Dataset, sweep.job.dataset_id)
        return page(session, "experiments/show.html", sweep=sweep, job=sweep.job, dataset=dataset)


@pages.get("/experiments/<uuid:job_id>/live")
def experiment_live(job_id: uuid.UUID) -> ResponseReturnValue:
    """The live part alone; 204 while nothing has changed."""
    with current().db.transaction() as session:
        sweep = _sweep(session, job_id)
        if request.args.get("seen") == sweep.seen:
            return "", 204
        return render_template("experiments/_live.html", sweep=sweep, job=sweep.job)


@pages.post("/experiments/<uuid:job_id>/use")
def use_experiment(job_id: uuid.UUID) -> ResponseReturnValue:
    """Make settings the dataset's defaults: those named, or the recommended."""
    with current().db.transaction() as session:
        dataset = experiments.use(session, job_id, request.form.get("position", type=int))
        flash(f"New jobs of {dataset.name} take these settings, unless they say otherwise.", "good")
    return redirect(url_for("pages.experiment", job_id=job_id), 303)


@pages.post("/datasets/<name>/defaults/clear")
def clear_defaults(name: str) -> ResponseReturnValue:
    """Take a dataset's defaults away."""
    with current().db.transaction() as session:
        dataset = datasets.get(session, name)
        dataset.defaults = {}
        flash("New jobs take the factory's own settings again.", "good")
    return redirect(url_for("pages.dataset", name=name), 303)


def _blank(session: Session) -> Form:
    chosen = request.args.get("dataset") or _first(datasets.list_all(session, limit=1))
    model = request.args.get("model") or _first(models.list_all(session, limit=1))
    start = {name: str(SweepSpec.model_fields[name].default) for name in GIVEN}
    names = {"dataset": chosen, "model": model, "once": str(uuid.uuid4())}
    return Form({**start, **names, **{field: "" for field, _ in TRIED}})


def _first(rows: Sequence[object]) -> str:
    return str(getattr(rows[0], "name", "")) if rows else ""


def _body(values: dict[str, str]) -> dict[str, object]:
    """What the API would be sent: values to try are written with commas."""
    body = nested({name: values[name] for name in FIELDS if name != "once"})
    space = {
        field: [_value(part) for part in values[field].split(",") if part.strip()]
        for field, _ in TRIED
        if values[field].strip()
    }
    return {"kind": "sweep", **body, **({"space": space} if space else {})}


def _value(text: str) -> float | str:
    """A number where it is one."""
    said = text.strip().replace("−", "-")
    try:
        return float(said)
    except ValueError:
        return said


def _submit(session: Session, form: Form, spec: SweepSpec, body: dict[str, object]) -> Job | None:
    try:
        dataset = datasets.get(session, spec.dataset)
        model = models.get(session, spec.model)
    except NotFound as error:
        form.refuse(error, "model" if "model" in error.detail else "dataset")
        return None
    key = f"dashboard-{form.values['once'][:64]}"
    earlier = jobs.submitted(session, body, key)
    if earlier is not None:
        return earlier
    sent = {"request": body, "idempotency_key": key, "token_id": g.token_id}
    try:
        with session.begin_nested():
            return experiments.submit(session, spec, dataset, model, **sent)[0]
    except OverBudget as error:
        form.refuse(error)
        return None


def _listed(session: Session, form: Form, *, status: int = 200) -> ResponseReturnValue:
    shown, older = paged(
        lambda before, n: jobs.list_page(session, kind="sweep", before=before, limit=n), PAGE
    )
    rows: list[tuple[Row, Point | None]] = [
        (row, choices.recommended(row.job)) for row in rows_of(session, shown)
    ]
    named = {row.name: row for row in datasets.list_all(session)}
    return page(
        session,
        "experiments/index.html",
        status=status,
        form=form,
        rows=rows,
        older=older,
        tried=TRIED,
        dataset=named.get(form.values["dataset"]),
        datasets=list(named),
        models=[model.name for model in models.list_all(session)],
    )


def _sweep(session: Session, job_id: uuid.UUID) -> Sweep:
    job = jobs.get(session, job_id)
    if job.kind != "sweep":
        raise NotFound(f"Job {job_id} is no sweep.")
    points = choices.measured(job)
    best = choices.recommended(job)
    by_position = {point.position: point for point in points}
    asked = request.args.get("beside", type=int)
    dataset = session.get_one(Dataset, job.dataset_id)
    return Sweep(
        job=job,
        progress=jobs.progress(session, job),
        points=points,
        best=best,
        plain=by_position.get(0),
        beside=by_position.get(asked) if asked is not None else best,
        scatter=scatter(points, best),
        heatmap=heatmap(points, job.spec["objective"]),
        in_use=dataset.defaults.get("job") == str(job.id),
    )
