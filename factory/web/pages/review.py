"""What people said: verdicts and reasons, the latest reviews, what waits."""

from flask import flash, redirect, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from factory import datasets, outbox, reviews, samples
from factory.errors import Conflict
from factory.tables import Dataset
from factory.web import paging
from factory.web.pages import label_studio
from factory.web.pages.frame import page, pages
from factory.web.state import current

PAGE = 25


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


def _shown(session: Session, dataset: Dataset | None) -> ResponseReturnValue:
    if dataset is None:
        return page(session, "review.html", dataset=None)
    cursor = request.args.get("cursor")
    found = reviews.list_page(
        session, dataset.id, before=paging.decode(cursor) if cursor else None, limit=PAGE + 1
    )
    shown = found[:PAGE]
    settings = current().settings
    return page(
        session,
        "review.html",
        dataset=dataset,
        stats=reviews.stats(session, dataset.id),
        latest=shown,
        texts=samples.by_ids(session, [row.sample_id for row in shown]),
        older=paging.encode(shown[-1].id) if len(found) > PAGE else None,
        connected=bool(settings.label_studio_url),
        project_url=label_studio.project_url(settings, dataset.label_studio_project),
    )
