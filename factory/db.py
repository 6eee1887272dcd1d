"""Postgres: one engine for a process, and transactions."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import Engine, create_engine, func, select, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from factory.errors import DatabaseUnavailable

PATIENCE = 20.0  # seconds: a Postgres that is restarted answers again within them
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 0.5
REFUSALS = {  # SQLSTATE: what to tell; all may go well later
    "25P03": "The database ended a transaction in which nothing was heard for too long.",
    "40001": "Two changes of the same rows clashed. Try again.",
    "40P01": "Two changes waited for each other. Try again.",
    "53100": "The database's disk is full. Free some space on it; nothing was stored.",
    "53300": "The database has no connection left. Try again, or raise its max_connections.",
}
# A side that vanished without a word is noticed within a minute, by both.
KEEPALIVES = {"idle": 30, "interval": 10, "count": 3}

ResultT = TypeVar("ResultT")


class Database:
    """A pool of connections to one Postgres database."""

    def __init__(self, url: str, *, pool_size: int = 5) -> None:
        self.engine: Engine = create_engine(
            url,
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": 5,
                "application_name": "steer-factory",
                "options": " ".join(["-c timezone=UTC", *_server_keepalives()]),
                **{f"keepalives_{name}": value for name, value in KEEPALIVES.items()},
            },
        )

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session whose work is committed at the end, or undone when an error is raised.

        Raises DatabaseUnavailable when Postgres cannot be reached or cannot take it now. If that
        was at the end, it may have been committed all the same: see `retrying`.
        """
        try:
            with Session(self.engine, expire_on_commit=False) as session, session.begin():
                yield session
        except DBAPIError as error:
            reason = _may_go_well_later(error)
            if reason is None:
                raise
            raise DatabaseUnavailable(reason) from error
        except PoolTimeout as error:
            raise DatabaseUnavailable(
                "Every connection to the database is in use. Try again."
            ) from error

    def retrying(self, work: Callable[[Session], ResultT], patience: float = PATIENCE) -> ResultT:
        """`work` in a transaction; again, from its start, when the database was away or refused
        it because of others, for `patience` seconds. Returns what `work` returned.

        `work` is also run again when a COMMIT was done but its answer was lost: it must come to
        the same end then. Raises DatabaseUnavailable, and at once whatever else `work` raises.
        """
        end, pause = time.monotonic() + patience, FIRST_PAUSE
        while True:
            try:
                with self.transaction() as session:
                    return work(session)
            except DatabaseUnavailable:
                if time.monotonic() + pause > end:
                    raise
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, LONGEST_PAUSE)

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """A session that sees the database as it is now, whatever is committed meanwhile, and
        changes nothing."""
        with self.transaction() as session:
            session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
            yield session

    @contextmanager
    def only_one(self, name: str) -> Iterator[bool]:
        """Whether this process is the only one that now does `name`; held until the end.

        An advisory lock of a transaction: it ends with the connection, however that ends.
        """
        with self.transaction() as session:
            key = func.hashtextextended(name, 0)
            yield bool(session.scalar(select(func.pg_try_advisory_xact_lock(key))))

    def ping(self) -> None:
        """Raise DatabaseUnavailable unless the database answers."""
        with self.transaction() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def _may_go_well_later(error: DBAPIError) -> str | None:
    """What to tell of an error that the same call may not meet again; None for any other."""
    state = getattr(error.orig, "sqlstate", None)
    if state in REFUSALS:
        return REFUSALS[state]
    away = isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated
    return f"The database does not answer: {error.orig}" if away else None


def _server_keepalives() -> list[str]:
    return [f"-c tcp_keepalives_{name}={value}" for name, value in KEEPALIVES.items()]
