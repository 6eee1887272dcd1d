"""Postgres: one engine for a process, and transactions."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, create_engine, func, select, text
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from factory.errors import Unavailable


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
                "options": "-c timezone=UTC",
            },
        )

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session whose work is committed at the end, or undone when an error is raised.

        Raises Unavailable when Postgres cannot be reached.
        """
        try:
            with Session(self.engine, expire_on_commit=False) as session, session.begin():
                yield session
        except (OperationalError, InterfaceError) as error:
            raise Unavailable(f"The database does not answer: {error.orig}") from error
        except PoolTimeout as error:
            raise Unavailable("Every connection to the database is in use. Try again.") from error

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
        """Raise Unavailable unless the database answers."""
        with self.transaction() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()
