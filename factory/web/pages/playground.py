"""The playground: eight samples for some settings beside eight unguided ones of the same seeds.

What a form asks for is a request to a GPU worker; its address can be kept and shared, and shows
the samples as they come.
"""

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flask import redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from factory import datasets, models, requests, texts
from factory.errors import NotFound
from factory.spec import GenerateSpec
from factory.tables import Request
from factory.texts import Part
from factory.web.pages import job_form
from factory.web.pages.forms import Form
from factory.web.pages.frame import page, pages
from factory.web.state import current

SAMPLES = 8  # of each side
KEPT = (*job_form.FIELDS, "once")
SHOWN = frozenset(  # fields that the playground has itself; the others are carried along
    (
        *("dataset", "model", "count", "seed", "negatives.count", "sampling.temperature"),
        *(f"guidance.{name}" for name in ("gamma", "eta", "alpha", "nucleus")),
        *(f"negatives.sources.{name}" for name in job_form.SOURCES),
        "negatives.center",
    )
)


@dataclass(frozen=True)
class Cell:
    """One text in parts; those that the other side lacks are marked once both are whole."""

    parts: Sequence[Part]
    text: str
    whole: bool


@dataclass(frozen=True)
class Row:
    """One seed, without guidance and with it; None where it is not made yet."""

    number: int
    unguided: Cell | None
    guided: Cell | None

    @property
    def same(self) -> bool:
        """Whether guidance changed nothing."""
        both = [cell for cell in (self.unguided, self.guided) if cell and cell.whole]
        return len(both) == 2 and both[0].text == both[1].text


@dataclass(frozen=True)
class Figures:
    """One side in numbers. `perplexity` is the expert's own, per token: how much it wonders."""

    made: int
    distinct_2: float | None
    distinct_3: float | None
    words: float | None
    perplexity: float | None


@dataclass(frozen=True)
class Tried:
    """What a request has come to so far."""

    request: Request
    rows: Sequence[Row]
    unguided: Figures
    guided: Figures
    seen: int  # tokens of both sides so far: grows with whatever can be seen

    @property
    def going(self) -> bool:
        """Whether there is more to come."""
        return self.request.done_at is None

    @property
    def made(self) -> int:
        """Whole texts of both sides so far."""
        return self.unguided.made + self.guided.made


@pages.get("/playground")
def playground() -> ResponseReturnValue:
    """The settings, with nothing tried yet."""
    with current().db.transaction() as session:
        return _shown(session, job_form.first_form(session))


@pages.post("/playground")
def try_out() -> ResponseReturnValue:
    """Have a GPU worker make the samples; the form comes back with what is wrong."""
    form = job_form.sent()
    spec = job_form.spec_of(form)
    with current().db.transaction() as session:
        asked = _asked(session, form, spec) if spec else None
        if asked is None:
            return _refused(session, form)
    return redirect(url_for("pages.tried_out", request_id=asked.id), 303)


@pages.get("/playground/<uuid:request_id>")
def tried_out(request_id: uuid.UUID) -> ResponseReturnValue:
    """The settings, and what they make."""
    with current().db.transaction() as session:
        asked = _request(session, request_id)
        given = asked.payload["form"]
        form = Form({name: str(given.get(name, "")) for name in KEPT})
        return _shown(session, form, _tried(asked))


@pages.get("/playground/<uuid:request_id>/samples")
def tried_samples(request_id: uuid.UUID) -> ResponseReturnValue:
    """The samples alone; 204 while no token was added."""
    with current().db.transaction() as session:
        tried = _tried(_request(session, request_id))
    if tried.going and request.args.get("seen", type=int) == tried.seen:
        return "", 204
    return render_template("jobs/_tried.html", tried=tried, samples=SAMPLES)


def _refused(session: Session, form: Form) -> ResponseReturnValue:
    """The whole page with what is wrong; for htmx in the place of the page's main part."""
    if "HX-Request" not in request.headers:
        return _shown(session, form, status=422)
    headers = {
        "HX-Retarget": "#main",
        "HX-Reselect": "#main > *",
        "HX-Reswap": "innerHTML",
        "HX-Push-Url": "false",
    }
    return *_shown(session, form), headers


def _asked(session: Session, form: Form, spec: GenerateSpec) -> Request | None:
    """The request for a form; None, and the errors at their fields, when it is refused. The
    seed is kept in the form, so that the next try differs by its settings only."""
    try:
        dataset = datasets.get(session, spec.dataset)
        models.get(session, spec.model)
    except NotFound as error:
        form.refuse(error, "model" if "model" in error.detail else "dataset")
        return None
    form.values["seed"] = str(spec.seed)
    few = spec.model_copy(update={"count": SAMPLES, "prompt": spec.prompt or dataset.prompt})
    payload = {"spec": few.model_dump(mode="json"), "form": form.values}
    return requests.create(session, "preview", payload)


def _request(session: Session, request_id: uuid.UUID) -> Request:
    asked = requests.get(session, request_id)
    if "form" not in asked.payload:
        raise NotFound(f"There is no request {request_id} of the playground.")
    return asked


def _tried(asked: Request) -> Tried:
    made: Mapping[str, Any] = asked.result or {}
    unguided, guided = (
        {int(row["ordinal"]): row for row in made.get(side, ())} for side in ("unguided", "guided")
    )
    rows = [
        Row(n + 1, _cell(unguided.get(n), guided.get(n)), _cell(guided.get(n), unguided.get(n)))
        for n in range(SAMPLES)
    ]
    seen = sum(row["tokens"] for side in (unguided, guided) for row in side.values())
    return Tried(asked, rows, _figures([*unguided.values()]), _figures([*guided.values()]), seen)


def _cell(row: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> Cell | None:
    if row is None:
        return None
    text, whole = row["text"], _is_whole(row)
    both = other is not None and whole and _is_whole(other)
    parts = texts.differences(text, other["text"]) if other and both else [Part(text, False)]
    return Cell(parts, text, whole)


def _is_whole(row: Mapping[str, Any]) -> bool:
    return not row.get("partial")


def _figures(rows: Sequence[Mapping[str, Any]]) -> Figures:
    whole = [row for row in rows if _is_whole(row)]
    made = [row["text"] for row in whole]
    surprises = [row["surprise"] for row in whole if row.get("surprise") is not None]
    return Figures(
        made=len(made),
        distinct_2=texts.distinct(made, 2),
        distinct_3=texts.distinct(made, 3),
        words=sum(len(texts.words(text)) for text in made) / len(made) if made else None,
        perplexity=math.exp(sum(surprises) / len(surprises)) if surprises else None,
    )


def _shown(
    session: Session, form: Form, tried: Tried | None = None, *, status: int = 200
) -> tuple[str, int]:
    named = {row.name: row for row in datasets.list_all(session)}
    spec = job_form.spec_of(Form(dict(form.values)))
    return page(
        session,
        "jobs/playground.html",
        status=status,
        form=form,
        carried=[name for name in KEPT if name not in SHOWN],
        checks=job_form.CHECKS,
        dataset=named.get(form.values["dataset"]),
        datasets=list(named.values()),
        models=models.list_all(session),
        tried=tried,
        samples=SAMPLES,
        same=job_form.same_of(form, spec),
        estimate=job_form.estimated(session, spec),
    )
