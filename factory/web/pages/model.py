"""Model pairs: the digests of their weights, how fast they are, the jobs that used them."""

from collections.abc import Sequence
from dataclasses import dataclass

from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from factory import jobs, models, speed
from factory.guidance import Guidance
from factory.tables import Job, ModelPair
from factory.web.pages.frame import page, pages
from factory.web.pages.job import rows_of
from factory.web.state import current

RECENT = 5  # jobs of each pair


@dataclass(frozen=True)
class Used:
    """A pair with the newest jobs that used or made it; `speed`: tokens a second, lately."""

    pair: ModelPair
    jobs: Sequence[Job]
    speed: float | None


@pages.get("/models")
def models_list() -> ResponseReturnValue:
    """Every pair, newest first, below those in training."""
    with current().db.transaction() as session:
        return page(
            session,
            "models.html",
            used=[_used(session, pair) for pair in models.list_all(session)],
            training=rows_of(session, jobs.in_training(session)),
        )


def _used(session: Session, pair: ModelPair) -> Used:
    guidance = Guidance()
    found = speed.of_model(session, pair.id, {"gamma": guidance.gamma, "eta": guidance.eta})
    rate = found.tokens / found.seconds if found else None
    return Used(pair, jobs.with_model(session, pair.id, RECENT), rate)
