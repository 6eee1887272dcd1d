"""The first page: what there is, what runs, and what needs help."""

from flask import render_template
from flask.typing import ResponseReturnValue

from factory import datasets, jobs, models
from factory.web.pages import health_checks
from factory.web.pages.frame import page, pages
from factory.web.pages.job import rows_of
from factory.web.state import current

RECENT = 8
TILES = 24  # datasets shown with their counts, the newest


@pages.get("/")
def overview() -> ResponseReturnValue:
    """Datasets with their counts, what runs now, recent jobs."""
    with current().db.transaction() as session:
        recent = rows_of(session, jobs.list_page(session, limit=RECENT))
        newest = datasets.list_all(session, limit=TILES)
        counts = datasets.counts_of(session, newest)
        return page(
            session,
            "overview.html",
            tiles=[(row, counts[row.id]) for row in newest],
            live=[row for row in recent if row.job.state in jobs.LIVE],
            recent=recent,
            models=models.list_all(session),
        )


@pages.get("/health")
def health() -> ResponseReturnValue:
    """Every service, and what to do about those that are degraded."""
    state = current()
    with state.db.transaction() as session:
        return page(session, "health.html", checks=health_checks.all_of(session, state))


@pages.get("/health/chip")
def health_chip() -> ResponseReturnValue:
    """The frame's one-word summary."""
    state = current()
    with state.db.transaction() as session:
        bad = [check for check in health_checks.all_of(session, state) if not check.good]
    return render_template("_health_chip.html", bad=bad)


@pages.get("/health/notes")
def health_notes() -> ResponseReturnValue:
    """What is degraded, for the overview."""
    state = current()
    with state.db.transaction() as session:
        bad = [check for check in health_checks.all_of(session, state) if not check.good]
    return render_template("_health_notes.html", bad=bad)
