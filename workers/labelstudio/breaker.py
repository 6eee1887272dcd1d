"""The circuit of Label Studio around each call to it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from sqlalchemy.orm import Session

from factory import circuits, log, outbox
from factory.circuits import LABEL_STUDIO, Turn
from factory.db import Database
from factory.errors import Invalid, NotFound, Unavailable
from factory.settings import Settings
from workers.labelstudio.client import Guard

logger = log.get(__name__)


def guard(database: Database, settings: Settings) -> Guard:
    """What a Client makes its calls in. Entering it raises HeldBack while nobody may call."""
    first = settings.label_studio_retry_seconds

    @contextmanager
    def call() -> Iterator[None]:
        turn = database.retrying(partial(circuits.ask, name=LABEL_STUDIO))
        try:
            yield
        except Unavailable as error:
            said, after = error.detail, error.retry_after
            database.retrying(lambda s: circuits.failed(s, LABEL_STUDIO, turn, said, first, after))
            raise
        except (NotFound, Invalid):  # it answers
            _answered(database, turn)
            raise
        _answered(database, turn)

    return call


def _answered(database: Database, turn: Turn) -> None:
    if not turn.is_clean and database.retrying(partial(_close, turn=turn)):
        logger.info("labelstudio.back")


def _close(session: Session, turn: Turn) -> bool:
    """Whether it is back just now: then everything that waits for it is due."""
    closed = circuits.succeeded(session, LABEL_STUDIO, turn)
    if closed:
        outbox.hasten(session, outbox.LABEL_STUDIO)
    return closed
