"""Threads of a worker's parent use the database while its loop forks children."""

import os
import threading

from sqlalchemy import text

from factory.settings import Settings
from workers.parent import ParentDatabase


def test_no_child_is_forked_while_a_thread_is_in_a_transaction(settings: Settings) -> None:
    database = ParentDatabase(settings.database_url)
    begun, done = threading.Event(), threading.Event()

    def use() -> None:
        with database.transaction() as session:
            begun.set()
            session.execute(text("SELECT pg_sleep(0.3)"))
        done.set()

    thread = threading.Thread(target=use)
    thread.start()
    begun.wait()
    child = os.fork()
    if child == 0:
        os._exit(0 if database.engine.pool.checkedout() == 0 else 1)  # type: ignore[attr-defined]
    _, status = os.waitpid(child, 0)
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 0
    with database.transaction() as session:
        assert session.scalar(text("SELECT 1")) == 1


def test_no_connection_stays_open_that_a_child_would_share(settings: Settings) -> None:
    database = ParentDatabase(settings.database_url)
    with database.transaction() as session:
        session.execute(text("SELECT 1"))
    assert database.engine.pool.checkedin() == 0  # type: ignore[attr-defined]
