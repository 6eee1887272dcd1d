"""What people said: verdicts and reasons, what feedback changed, what is steered away from."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Literal

from flask import flash, redirect, request, url_for
from flask.typing import ResponseReturnValue
from pydantic import BaseModel
from sqlalchemy.orm import Session

from factory import datasets, negatives, outbox, pushes, reviews, samples, tallies
from factory.errors import Conflict
from factory.tables import Dataset, Sample
from factory.web.inputs import validated
from factory.web.pages import label_studio
from factory.web.pages.frame import page, paged, pages
from factory.web.pages.review_figures import figures
from factory.web.state import current

SAID = {
    "pinned": "Pinned: every further sample is steered away from it.",
    "retired": "Retired: no further sample is steered away from it. What was made stays as it is.",
    "none": "It is drawn as any other again.",
}
PAGE = 10
WINDOW = 1000  # newest reviews that figures are made of
NEGATIVES = 5  # newest rejected samples that are listed
BACKLOG = 5  # samples to review that are listed


@dataclass(frozen=True)
class Negative:
    """A sample that others are steered away from: what was decided about it, how often it was
    used (None: not counted here)."""

    sample: Sample
    mark: str | None
    used: int | None = None


class NewMark(BaseModel):
    """What to do with a sample as a negative; "none" takes an earlier decision back."""

    kind: Literal["pinned", "retired", "none"]
    page: Literal["review", "sample"] = "review"


@pages.get("/review")
def review() -> ResponseReturnValue:
    """One dataset's reviews; the newest dataset when none is named."""
    name = request.args.get("dataset")
    with current().db.transaction() as session:
        if name:
            return _shown(session, datasets.get(session, name))
        return _shown(session, next(iter(datasets.list_all(session)), None))


@pages.post("/review/<name>/sync")
def sync_reviews(name: str) -> ResponseReturnValue:
    """Have a worker compare all reviews with Label Studio now."""
    if not current().settings.label_studio_url:
        raise Conflict("No Label Studio is set up. Set FACTORY_LABEL_STUDIO_URL and its API key.")
    with current().db.transaction() as session:
        outbox.owe(session, outbox.RECONCILE, datasets.get(session, name).id)
    flash("A worker compares the reviews with Label Studio now. Reload in a moment.", "good")
    return redirect(url_for("pages.review", dataset=name), 303)


@pages.post("/samples/<uuid:sample_id>/mark")
def mark_sample(sample_id: uuid.UUID) -> ResponseReturnValue:
    """Pin or retire a sample as a negative, or take that back."""
    new = validated(NewMark, request.form.to_dict())
    with current().db.transaction() as session:
        sample = samples.get(session, sample_id)
        dataset = session.get_one(Dataset, sample.dataset_id).name
        if new.kind == "none":
            negatives.unmark(session, sample_id)
        else:
            negatives.mark(session, sample, new.kind)
    flash(SAID[new.kind], "good")
    if new.page == "sample":
        return redirect(url_for("pages.sample", sample_id=sample_id), 303)
    return redirect(url_for("pages.review", dataset=dataset) + "#away", 303)


def _steered_away(session: Session, dataset: Dataset) -> Sequence[Negative]:
    """Pinned samples, then the newest rejected ones that are not retired."""
    pinned = negatives.marked(session, dataset.id, "pinned")
    newest = negatives.list_page(session, dataset.id, limit=NEGATIVES + negatives.PINS)
    marks = negatives.marks(session, [sample.id for sample, _ in newest])
    free = [(sample, used) for sample, used in newest if sample.id not in marks]
    return [
        *(Negative(sample, "pinned") for sample in pinned),
        *(Negative(sample, None, used) for sample, used in free[:NEGATIVES]),
    ]


def _shown(session: Session, dataset: Dataset | None) -> ResponseReturnValue:
    if dataset is None:
        return page(session, "review.html", dataset=None)
    shown, older = paged(
        lambda before, n: reviews.list_page(session, dataset.id, before=before, limit=n), PAGE
    )
    settings = current().settings
    counted = reviews.live(session, dataset.id)
    return page(
        session,
        "review.html",
        dataset=dataset,
        stats=reviews.stats(session, dataset.id, counted),
        latest=shown,
        texts=samples.by_ids(session, [row.sample_id for row in shown]),
        pushes=pushes.of_samples(session, [row.sample_id for row in shown]),
        task_url=partial(label_studio.push_url, settings),
        figures=figures(
            reviews.judged(session, dataset.id, WINDOW),
            tallies.by(counted, "reviewer", "day", "verdict"),
            datetime.now(UTC).date(),
        ),
        backlog=pushes.to_review(session, dataset.id, BACKLOG),
        away=_steered_away(session, dataset),
        retired=negatives.marked(session, dataset.id, "retired"),
        older=older,
        connected=bool(settings.label_studio_url),
        project_url=label_studio.project_url(settings, dataset.label_studio_project),
    )
