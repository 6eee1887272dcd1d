"""Model pairs: the digests of their weights, how they were trained, which settings suit them, how
fast they are, the jobs that used them."""

from collections.abc import Sequence
from dataclasses import dataclass

from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from factory import jobs, models, speed
from factory.guidance import Guidance
from factory.tables import Job, ModelPair
from factory.web.pages import choices, losses
from factory.web.pages.choices import Point
from factory.web.pages.frame import page, pages
from factory.web.pages.job import Row, rows_of
from factory.web.pages.losses import Losses
from factory.web.state import current

RECENT = 5  # jobs of each pair


@dataclass(frozen=True)
class Run:
    """A train job with its loss so far."""

    row: Row
    losses: Losses


@dataclass(frozen=True)
class Used:
    """A pair with the newest jobs that used or made it.

    speed       tokens a second, lately
    training    the job that made it, if one did
    calibrated  the newest sweep that has ended, and the settings that it recommends
    """

    pair: ModelPair
    jobs: Sequence[Job]
    speed: float | None
    training: Run | None
    calibrated: Job | None
    best: Point | None


@pages.get("/models")
def models_list() -> ResponseReturnValue:
    """Every pair, newest first, below those in training."""
    with current().db.transaction() as session:
        return page(
            session,
            "models.html",
            used=[_used(session, pair) for pair in models.list_all(session)],
            training=[_run(session, job) for job in jobs.in_training(session)],
        )


def _used(session: Session, pair: ModelPair) -> Used:
    guidance = Guidance()
    found = speed.of_model(session, pair.id, {"gamma": guidance.gamma, "eta": guidance.eta})
    trained = jobs.newest_done(session, pair.id, "train")
    calibrated = jobs.newest_done(session, pair.id, "sweep")
    return Used(
        pair,
        jobs.with_model(session, pair.id, RECENT),
        found.tokens / found.seconds if found else None,
        _run(session, trained) if trained else None,
        calibrated,
        choices.recommended(calibrated) if calibrated else None,
    )


def _run(session: Session, job: Job) -> Run:
    (row,) = rows_of(session, [job])
    return Run(row, losses.of_shards(jobs.shards_of(session, job.id)))
