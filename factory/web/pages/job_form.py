"""The form of a new generate job. It sends the same spec that the API takes."""

import json
import uuid
from dataclasses import dataclass
from typing import Any

from flask import g, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from factory import datasets, jobs, models
from factory.errors import Conflict, FieldError, Invalid, NotFound, OverBudget
from factory.spec import GenerateSpec
from factory.speed import Speed, of_model
from factory.tables import Job
from factory.web.api.jobs import check_label
from factory.web.pages import copies, forms
from factory.web.pages.forms import Form
from factory.web.pages.frame import page, pages
from factory.web.state import current

SOURCES = ("rejected", "synthetic", "real")
CHECKS = ("negatives.center", "review.push", "trace")
FIELDS = (
    *("dataset", "model", "count", "seed", "prompt", "label", "audit", "shard_size", "preset"),
    *(f"guidance.{name}" for name in ("rule", "gamma", "eta", "alpha", "nucleus")),
    *(f"negatives.{name}" for name in ("count", "strategy", "group")),
    *(f"negatives.sources.{name}" for name in SOURCES),
    *(f"sampling.{name}" for name in ("temperature", "top_k", "top_p", "min_p", "typical_p")),
    "sampling.max_new_tokens",
    "sampling.stop",
    "review.fraction",
    *CHECKS,
)
COUNT = 100  # what a new form asks for


@dataclass(frozen=True)
class Estimate:
    """What a job of `count` samples may take one worker."""

    count: int
    speed: Speed

    @property
    def tokens(self) -> int:
        """To be made in all."""
        return round(self.speed.estimate(self.count)[0])

    @property
    def seconds(self) -> float:
        """Of one worker's time."""
        return self.speed.estimate(self.count)[1]

    @property
    def rate(self) -> int:
        """Tokens a second, as measured."""
        return round(self.speed.tokens / self.speed.seconds)


@pages.get("/jobs/new")
def new_job() -> ResponseReturnValue:
    """An empty form, or one that is filled like an earlier job."""
    with current().db.transaction() as session:
        return _shown(session, first_form(session))


@pages.post("/jobs/new")
def send_job() -> ResponseReturnValue:
    """Submit; the form comes back with what is wrong next to the fields."""
    form = sent()
    spec = spec_of(form)
    with current().db.transaction() as session:
        job = _submit(session, form, spec) if spec else None
        if job is None:
            return _shown(session, form, status=422)
    return redirect(url_for("pages.job", job_id=job.id), 303)


@pages.post("/jobs/new/form")
def edit_job() -> ResponseReturnValue:
    """The whole form, filled as it was sent: from the playground."""
    with current().db.transaction() as session:
        return _shown(session, sent())


@pages.post("/jobs/new/same")
def same_job() -> ResponseReturnValue:
    """The YAML and the curl call of the form as it is now, and what it may take."""
    form = sent()
    spec = spec_of(form)
    with current().db.transaction() as session:
        estimate = estimated(session, spec)
    same = same_of(form, spec)
    return render_template("jobs/_same.html", same=same, form=form, estimate=estimate)


def estimated(session: Session, spec: GenerateSpec | None) -> Estimate | None:
    """What a job may take one worker, from what the pair's shards took lately; None when the
    settings are not complete or nothing was measured."""
    if spec is None or not models.exists(session, spec.model):
        return None
    pair = models.get(session, spec.model)
    speed = of_model(session, pair.id, spec.guidance.model_dump())
    return Estimate(spec.count, speed) if speed else None


def first_form(session: Session) -> Form:
    """A new form, or one filled like the job that the address names."""
    like = request.args.get("like")
    if like:
        return Form(
            values_of(generate_job(session, like, "cloned").spec) | {"once": str(uuid.uuid4())}
        )
    chosen = request.args.get("dataset") or _first(datasets.list_all(session))
    model = request.args.get("model") or _first(models.list_all(session))
    blank = GenerateSpec(kind="generate", dataset="x", model="x", count=COUNT)
    if chosen:
        blank = datasets.defaults(datasets.get(session, chosen)).fill(blank)
    values = values_of(blank.model_dump(mode="json"))
    values |= {"dataset": chosen, "model": model, "seed": "", "once": str(uuid.uuid4())}
    return Form(values)


def _first(rows: Any) -> str:
    return rows[0].name if rows else ""


def generate_job(session: Session, job_id: str, purpose: str) -> Job:
    """The generate job of an id in an address. Raises NotFound, which says that only such jobs
    can be `purpose` ("cloned", "compared")."""
    try:
        job = jobs.get(session, uuid.UUID(job_id))
    except ValueError:
        raise NotFound(f"There is no job '{job_id}'.") from None
    if job.kind != "generate":
        raise NotFound(f"Only generate jobs can be {purpose}.")
    return job


def values_of(spec: dict[str, Any]) -> dict[str, str]:
    """A spec as the texts of the form's fields. A source that is not named weighs nothing."""
    weights = {f"negatives.sources.{name}": "0" for name in SOURCES}
    stops = [json.dumps(text, ensure_ascii=False)[1:-1] for text in spec["sampling"]["stop"]]
    texts = forms.flat(spec) | {"sampling.stop": "\n".join(stops)}
    return dict.fromkeys(FIELDS, "") | weights | texts


def sent() -> Form:
    """The form as it was sent."""
    return Form({name: request.form.get(name, "") for name in (*FIELDS, "once")})


def body_of(form: Form) -> dict[str, Any]:
    """What the API would be sent for this form."""
    values = {name: form.values[name] for name in FIELDS if name != "sampling.stop"}
    body = {"kind": "generate", **forms.nested(values, CHECKS)}
    body.setdefault("sampling", {})["stop"] = _stops(form)
    body["negatives"]["sources"] = {
        name: weight
        for name in SOURCES
        if (weight := form.values[f"negatives.sources.{name}"].strip()) not in ("", "0")
    }
    return body


def _stops(form: Form) -> list[str]:
    """One stop text a line, written as in JSON: \\n is a line break."""
    stops = []
    for line in form.values["sampling.stop"].splitlines():
        try:
            stops += [json.loads(f'"{line}"')] if line else []
        except ValueError:
            form.errors["sampling.stop"] = f"{line} is not written as in JSON, like \\n or \\t."
    return stops


def spec_of(form: Form) -> GenerateSpec | None:
    """The job that the form asks for; None, and the errors at their fields, when it is none."""
    spec = form.read(GenerateSpec, body_of(form))
    return None if form.errors else spec


def _submit(session: Session, form: Form, spec: GenerateSpec) -> Job | None:
    """The submitted job; None, and the errors at their fields, when it is refused."""
    try:
        dataset = datasets.get(session, spec.dataset)
        model = models.get(session, spec.model)
        check_label(spec, dataset)
        sent = {"idempotency_key": _once(form), "token_id": g.token_id}
        with session.begin_nested():
            job, _ = jobs.submit(session, spec, dataset, model, request=body_of(form), **sent)
    except NotFound as error:
        form.refuse(error, "model" if "model" in error.detail else "dataset")
    except (Invalid, OverBudget) as error:
        form.refuse(error)
    except Conflict:
        form.values["once"] = str(uuid.uuid4())
        form.errors[""] = (
            "This form has made a job already, with other settings. Submit again to make another."
        )
    else:
        return job
    return None


def _once(form: Form) -> str:
    """The form's own idempotency key: pressing twice makes one job. Raises Invalid."""
    try:
        return f"dashboard-{uuid.UUID(form.values['once'])}"
    except ValueError:
        reason = FieldError("once", "is not what the form came with")
        raise Invalid("The form is not complete. Open it anew.", [reason]) from None


def same_of(form: Form, spec: GenerateSpec | None) -> copies.Copies | None:
    """The job as a file and as a call, to copy."""
    if spec is None:
        return None
    typed = spec.model_dump(mode="json")
    return copies.of_spec(_named(typed, body_of(form)), request.host_url)


def _named(typed: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The typed values of what was given: a seed that is left open stays open."""
    return {
        name: _named(typed[name], value) if isinstance(value, dict) else typed[name]
        for name, value in given.items()
    }


def _shown(session: Session, form: Form, *, status: int = 200) -> ResponseReturnValue:
    named = {row.name: row for row in datasets.list_all(session)}
    spec = spec_of(Form(form.values))
    return page(
        session,
        "jobs/new.html",
        status=status,
        form=form,
        dataset=named.get(form.values["dataset"]),
        datasets=list(named.values()),
        models=models.list_all(session),
        same=same_of(form, spec),
        estimate=estimated(session, spec),
    )
