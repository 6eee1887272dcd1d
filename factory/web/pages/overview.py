"""The first page: what there is, what runs, and what needs help."""

from collections.abc import Sequence
from dataclasses import dataclass

from flask import render_template
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from factory import datasets, jobs, load, models
from factory.web.pages import curve, health_checks
from factory.web.pages.frame import page, pages
from factory.web.pages.job import rows_of
from factory.web.state import current

RECENT = 8
RATE_MINUTES = 5
TILES = 24  # datasets shown with their counts, the newest


@dataclass(frozen=True)
class Now:
    """What goes on right now. `rate`: samples a minute, lately; `line`: the same as a drawing."""

    workers: Sequence[load.WorkerLoad]
    queue: load.Queue
    rate: float
    minutes: Sequence[int]
    line: str
    days: Sequence[load.Day]


@pages.get("/")
def overview() -> ResponseReturnValue:
    """Datasets with their counts, what runs now, recent jobs."""
    state = current()
    with state.db.transaction() as session:
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
            now=_now(session),
            bad=[check for check in health_checks.quick(session, state) if not check.good],
        )


@pages.get("/overview/now")
def overview_now() -> ResponseReturnValue:
    """What goes on right now, for the overview to keep itself fresh."""
    with current().db.transaction() as session:
        return render_template("_now.html", now=_now(session))


def _now(session: Session) -> Now:
    minutes = load.samples_by_minute(session)
    days = load.acceptance(session)
    return Now(
        workers=load.workers(session),
        queue=load.queue(session),
        rate=sum(minutes[-RATE_MINUTES:]) / RATE_MINUTES,
        minutes=minutes,
        line=curve.line([(n, made) for n, made in enumerate(minutes)], low=0),
        days=days,
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
