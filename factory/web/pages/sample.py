"""Samples: browsing them, and one sample with all that made it."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flask import flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from factory import (
    datasets,
    jobs,
    near_copies,
    negatives,
    pushes,
    requests,
    reviews,
    samples,
    texts,
)
from factory.errors import Conflict, NotFound
from factory.tables import Dataset, Job, Request, Sample
from factory.texts import Part
from factory.web import shapes, show
from factory.web.pages import label_studio, lineage, words
from factory.web.pages.explanation import Token, explained, first_changed
from factory.web.pages.frame import page, paged, pages
from factory.web.state import current

PAGE = 30
NEIGHBOURS = 4  # of each origin
NEAR = ("real", "synthetic")
ORIGINS = ("synthetic", "real", "corrected")
REASONS = (*reviews.REASONS, "empty")
COPIES = {"only": True, "none": False}  # what the filter of near-copies keeps


@dataclass(frozen=True)
class Filters:
    """Which samples are listed."""

    dataset: Dataset
    origin: str | None
    state: str | None
    job: Job | None
    query: str
    reason: str | None
    copies: str | None  # "only" near-copies, or "none"

    @property
    def arguments(self) -> dict[str, str]:
        """The same, for a link."""
        given = {
            "dataset": self.dataset.name,
            "origin": self.origin,
            "state": self.state,
            "job": str(self.job.id) if self.job else None,
            "q": self.query,
            "reason": self.reason,
            "copies": self.copies,
        }
        return {name: value for name, value in given.items() if value}


@dataclass(frozen=True)
class Near:
    """A sample that is like the one that is shown; its words in parts, shared ones marked."""

    sample: Sample
    similarity: float
    parts: Sequence[Part]


@pages.get("/samples")
def samples_list() -> ResponseReturnValue:
    """Samples of one dataset, newest first."""
    with current().db.transaction() as session:
        chosen = _filters(session)
        found, older = _page_of(session, chosen) if chosen else ((), None)
        return page(
            session,
            "samples/index.html",
            filters=chosen,
            dataset=chosen.dataset if chosen else None,
            found=found,
            older=older,
            near_copies=near_copies.of_samples(session, [row.id for row in found]),
            origins=ORIGINS,
            reasons=REASONS,
        )


@pages.post("/samples/selected")
def act_on_selected() -> ResponseReturnValue:
    """Send the ticked samples to review, retire them as negatives, or save them as a file."""
    action = request.form.get("action")
    ids = [uuid.UUID(value) for value in request.form.getlist("sample") if _is_id(value)][:PAGE]
    with current().db.transaction() as session:
        found = list(samples.by_ids(session, ids).values())
        if action == "save":
            return _file(session, found)
        flash(_act(session, action, found), "good")
    return redirect(_back(request.form.get("back", "")), 303)


def _act(session: Session, action: str | None, found: Sequence[Sample]) -> str:
    """Do it, and say what was done."""
    if not found:
        return "Nothing was ticked."
    if action == "retire":
        for each in found:
            negatives.mark(session, each, "retired")
        return f"{len(found)} retired: no further sample is steered away from them."
    owed = pushes.add(session, [each.id for each in found])
    rest = len(found) - owed
    kept = f" {rest} were on their way already, or are not to be reviewed." if rest else ""
    return f"{owed} go to Label Studio.{kept}"


def _file(session: Session, found: Sequence[Sample]) -> ResponseReturnValue:
    names = {row.dataset_id: session.get_one(Dataset, row.dataset_id).name for row in found}
    shown = [shapes.Sample.model_validate(show.sample(row, names[row.dataset_id])) for row in found]
    lines = "".join(f"{each.model_dump_json()}\n" for each in shown)
    headers = {"Content-Disposition": 'attachment; filename="samples.jsonl"'}
    return lines, 200, {"Content-Type": "application/x-ndjson", **headers}


def _is_id(value: str) -> bool:
    try:
        return bool(uuid.UUID(value))
    except ValueError:
        return False


def _back(query: str) -> str:
    """The list as it was; nothing that leads elsewhere."""
    return f"{url_for('pages.samples_list')}?{query}"


@pages.get("/samples/<uuid:sample_id>")
def sample(sample_id: uuid.UUID) -> ResponseReturnValue:
    """One sample: its text, how it was made, what is near it, what people said."""
    settings = current().settings
    with current().db.transaction() as session:
        found = samples.get(session, sample_id)
        push = pushes.of_sample(session, sample_id)
        links = samples.negatives_of(session, sample_id)
        corrections = samples.corrections_of(session, sample_id)
        asked = request.args.get("asked", type=uuid.UUID)
        return page(
            session,
            "samples/show.html",
            sample=found,
            dataset=session.get_one(Dataset, found.dataset_id),
            made=_provenance(session, found),
            links=links,
            alike=samples.similarities(session, sample_id, [other.id for _, other in links]),
            near=[(name, _near(session, found, name)) for name in NEAR],
            lineage=lineage.drawn(
                found,
                links,
                corrections,
                samples.get(session, found.corrects) if found.corrects else None,
                samples.steered_by(session, sample_id),
            ),
            corrections=corrections,
            near_copy=near_copies.of_samples(session, [sample_id]).get(sample_id),
            mark=negatives.marks(session, [sample_id]).get(sample_id),
            reviews=reviews.of_sample(session, sample_id),
            push=push,
            task_url=label_studio.push_url(settings, push),
            **(_answer(session, found, asked) if asked else {"asked": None}),
        )


@pages.post("/samples/<uuid:sample_id>/<any(replay,explanation):kind>")
def ask(sample_id: uuid.UUID, kind: str) -> ResponseReturnValue:
    """Have a GPU worker make the sample again, or say what moved each token."""
    with current().db.transaction() as session:
        samples.get_synthetic(session, sample_id)
        asked = requests.create(session, kind, {"sample": str(sample_id)})
    return redirect(url_for("pages.sample", sample_id=sample_id, asked=asked.id) + "#answer", 303)


@pages.get("/samples/<uuid:sample_id>/asked/<uuid:request_id>")
def answer(sample_id: uuid.UUID, request_id: uuid.UUID) -> ResponseReturnValue:
    """The answer alone, asked for until it is there."""
    with current().db.transaction() as session:
        found = samples.get(session, sample_id)
        values = _answer(session, found, request_id)
        return render_template("samples/_answer.html", sample=found, **values)


def _filters(session: Session) -> Filters | None:
    """What is asked for; the last used dataset when none is named. None when there is none."""
    job = _job(session, request.args.get("job"))
    name = request.args.get("dataset")
    if job is not None:
        dataset: Dataset | None = session.get_one(Dataset, job.dataset_id)
    elif name:
        dataset = datasets.get(session, name)
    else:
        dataset = _latest(session)
    if dataset is None:
        return None
    return Filters(
        dataset=dataset,
        origin=_one_of(ORIGINS, request.args.get("origin")),
        state=_one_of(words.SAMPLE_STATES, request.args.get("state")),
        job=job,
        query=request.args.get("q", "").strip(),
        reason=_one_of(REASONS, request.args.get("reason")),
        copies=_one_of([*COPIES], request.args.get("copies")),
    )


def _latest(session: Session) -> Dataset | None:
    """The dataset of the newest job, or the newest one."""
    for job in jobs.list_page(session, limit=1):
        return session.get_one(Dataset, job.dataset_id)
    return next(iter(datasets.list_all(session, limit=1)), None)


def _one_of(known: Sequence[str], value: str | None) -> str | None:
    return value if value in known else None


def _job(session: Session, job_id: str | None) -> Job | None:
    try:
        return jobs.get(session, uuid.UUID(job_id)) if job_id else None
    except ValueError:
        raise NotFound(f"There is no job '{job_id}'.") from None


def _page_of(session: Session, chosen: Filters) -> tuple[Sequence[Sample], str | None]:
    return paged(
        lambda before, n: samples.list_page(
            session,
            chosen.dataset.id,
            origin=chosen.origin,
            states=(chosen.state,) if chosen.state else (),
            job_id=chosen.job.id if chosen.job else None,
            query=chosen.query or None,
            reason=chosen.reason,
            near_copy=COPIES[chosen.copies] if chosen.copies else None,
            before=before,
            limit=n,
        ),
        PAGE,
    )


def _provenance(session: Session, found: Sample) -> dict[str, Any] | None:
    return samples.provenance(session, found.id) if found.origin == "synthetic" else None


def _near(session: Session, found: Sample, origin: str) -> Sequence[Near] | None:
    """The nearest samples of an origin; None while the sample has no embedding."""
    try:
        nearest = samples.neighbours(session, found.id, NEIGHBOURS, origin)
    except Conflict:
        return None
    return [
        Near(other, similarity, texts.overlaps(other.text, found.text))
        for other, similarity in nearest
    ]


def _answer(session: Session, found: Sample, request_id: uuid.UUID) -> dict[str, Any]:
    """What the answer's template needs. Raises NotFound for another sample's request."""
    asked = requests.get(session, request_id)
    if asked.payload.get("sample") != str(found.id):
        raise NotFound(f"There is no request {request_id} for this sample.")
    tokens = _tokens(session, found, asked)
    return {"asked": asked, "tokens": tokens, "first": first_changed(tokens)}


def _tokens(session: Session, found: Sample, asked: Request) -> Sequence[Token]:
    if asked.kind != "explanation" or asked.result is None:
        return ()
    guidance = session.get_one(Job, found.job_id).spec["guidance"]
    return explained(asked.result["tokens"], guidance)
