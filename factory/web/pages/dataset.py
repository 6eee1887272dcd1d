"""Datasets: making one, and one dataset with its counts, imports, exports and reviews."""

from flask import flash, redirect, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from factory import datasets, jobs, reviews
from factory.datasets import Imported
from factory.errors import Conflict
from factory.tables import Dataset
from factory.web.api.datasets import NewDataset
from factory.web.pages import evaluation, feedback, label_studio
from factory.web.pages.forms import Form
from factory.web.pages.frame import page, pages
from factory.web.pages.job import rows_of
from factory.web.state import current

FIELDS = ("name", "prompt", "description", "labels")
RECENT = 8
REFUSED = 20  # lines of an import that are named


@pages.get("/datasets/new")
def new_dataset() -> ResponseReturnValue:
    """The empty form."""
    with current().db.transaction() as session:
        return page(session, "datasets/new.html", form=Form(dict.fromkeys(FIELDS, "")))


@pages.post("/datasets/new")
def send_dataset() -> ResponseReturnValue:
    """Make it; the form comes back with what is wrong next to the fields."""
    form = Form({name: request.form.get(name, "").replace("\r\n", "\n") for name in FIELDS})
    new = form.read(NewDataset, _body(form))
    with current().db.transaction() as session:
        made = _create(session, form, new) if new else None
        if made is None:
            return page(session, "datasets/new.html", status=422, form=form)
    flash(f"Dataset {made.name} is made. Import real samples, or start a job.", "good")
    return redirect(url_for("pages.dataset", name=made.name), 303)


@pages.get("/datasets/<name>")
def dataset(name: str) -> ResponseReturnValue:
    """One dataset: what it holds and what can be done with it."""
    with current().db.transaction() as session:
        return _shown(session, datasets.get(session, name))


@pages.post("/datasets/<name>/import")
def import_samples(name: str) -> ResponseReturnValue:
    """Import real samples from a file; says what went in, and which lines did not and why."""
    file = request.files.get("file")
    with current().db.transaction() as session:
        found = datasets.get(session, name)
        imported = datasets.import_lines(session, found, file.stream if file else ())
        return _shown(session, found, imported)


def _body(form: Form) -> dict[str, object]:
    labels = [label.strip() for label in form.values["labels"].splitlines() if label.strip()]
    return form.values | {"name": form.values["name"].strip(), "labels": labels}


def _create(session: Session, form: Form, new: NewDataset) -> Dataset | None:
    try:
        return datasets.create(session, new.name, new.prompt, new.description, new.labels)
    except Conflict as error:
        form.refuse(error, "name")
        return None


def _shown(
    session: Session, found: Dataset, imported: Imported | None = None
) -> ResponseReturnValue:
    return page(
        session,
        "datasets/show.html",
        dataset=found,
        counts=datasets.counts(session, found),
        stats=reviews.stats(session, found.id),
        jobs=rows_of(session, jobs.list_page(session, dataset_id=found.id, limit=RECENT)),
        evaluation=evaluation.found(
            jobs.newest_evaluation(session, found.id), evaluation.HEADLINES
        ),
        feedback=feedback.panel(session, found),
        project_url=label_studio.project_url(current().settings, found.label_studio_project),
        imported=imported,
        refused=imported.rejected[:REFUSED] if imported else (),
        base_url=request.host_url.rstrip("/"),
    )
