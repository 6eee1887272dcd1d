"""How a worker ends that is told to (SIGTERM): in time, whatever it is at.

Its children come to a good end: a shard is handed back after the step it is in, any other task is
finished. What has not ended by then is ended: shards are taken back, other work is still owed.
"""

import faulthandler
import functools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from billiard import active_children
from celery.signals import worker_init, worker_shutting_down

from factory import log, shards
from factory.db import Database
from factory.errors import FactoryError
from workers.shard_worker import name_of

logger = log.get(__name__)

TAKING_BACK = 3.0  # seconds that this may take
STDERR = 2


def heeding(shutdown: threading.Event, task: Callable[..., None]) -> Callable[..., None]:
    """The task, done by a child that hears SIGTERM meanwhile: it sets `shutdown`. A child that
    was told to stop begins nothing more."""

    @functools.wraps(task)
    def run(*arguments: Any) -> None:
        with _heeding_sigterm(shutdown):
            if not shutdown.is_set():
                task(*arguments)

    return run


@contextmanager
def _heeding_sigterm(shutdown: threading.Event) -> Iterator[None]:
    """Set for each task: the pool puts a handler of its own, which ends the child at once, in the
    place of one that is set as the child starts."""
    before = signal.signal(signal.SIGTERM, lambda *_: shutdown.set())
    try:
        yield
    finally:
        if not shutdown.is_set():  # else the pool is about to end this child
            signal.signal(signal.SIGTERM, before)


def stop_in_time(kind: str, database: Database, seconds: float, ending: threading.Event) -> None:
    """Have this worker's parent pass SIGTERM on to its children, and end them and itself when they
    still run `seconds` later: `ending` is set first."""
    told = threading.Event()

    def tell(**_: Any) -> None:
        told.set()
        _tell_children()

    def wait() -> None:
        told.wait()
        time.sleep(seconds)
        ending.set()
        _end(kind, database)

    def begin(**_: Any) -> None:
        threading.Thread(target=wait, name="stopping", daemon=True).start()

    worker_init.connect(begin, weak=False)
    worker_shutting_down.connect(tell, weak=False)


def _tell_children() -> None:
    for child in active_children():
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGTERM)


def _end(kind: str, database: Database) -> None:
    """End this parent and its children now. The log says what each thread was at."""
    faulthandler.dump_traceback(file=STDERR)
    children = [child.pid for child in active_children()]
    for pid in children:  # first: it may be stuck in a transaction that holds its shard
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    faulthandler.dump_traceback_later(2 * TAKING_BACK, exit=True, file=STDERR)
    try:
        taken = database.retrying(
            lambda s: shards.take_back(s, [name_of(kind, pid) for pid in children]), TAKING_BACK
        )
        logger.error("worker.ended_late", children=children, taken_back=taken)
    except FactoryError as error:  # their leases run out
        logger.error("worker.ended_late", children=children, error=error.detail)
    os._exit(os.EX_TEMPFAIL)
