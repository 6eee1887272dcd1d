"""Ends a worker that is stuck: its child when it makes no step, its parent when it takes no
messages. Whoever started the worker starts it again; what it held is freed by its lease."""

import faulthandler
import os
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from celery.signals import task_received, worker_ready
from celery.worker import state
from sqlalchemy.orm import Session

from factory import log, outbox
from factory.db import Database
from factory.errors import Unavailable
from factory.settings import Settings

logger = log.get(__name__)

STDERR = 2
SHORTEST = 0.5  # seconds between two times that the clock is set anew


class Watchdog:
    """Ends this process, with the stacks of its threads in the log, when `step` is not called for
    `seconds` within its block. It needs no Python to run: it also ends a process that is stuck in
    native code. One at a time in a process."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._set = 0.0

    def __enter__(self) -> Self:
        self._wind()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        faulthandler.cancel_dump_traceback_later()

    def step(self) -> None:
        """Something was done."""
        if time.monotonic() - self._set > min(SHORTEST, self._seconds / 4):
            self._wind()

    def _wind(self) -> None:
        self._set = time.monotonic()
        faulthandler.dump_traceback_later(self._seconds, exit=True, file=STDERR)


class Consumption:
    """Watches, in a worker's parent, that it takes messages while there are any for it.

    It is deaf when it has no message in hand and has received none for `patience` seconds, while a
    wake-up for it was sent within that time, and not for the first time.
    """

    def __init__(self, database: Database, settings: Settings, tasks: Sequence[str]) -> None:
        self._database = database
        self._tasks = tasks
        self.patience = 2 * outbox.MAX_BACKOFF * settings.outbox_retry_seconds
        self._received = time.monotonic()

    def note(self, **_: Any) -> None:
        """A message has come."""
        self._received = time.monotonic()

    def is_deaf(self, busy: bool) -> bool:
        """Whether this worker should have received something by now."""
        if busy:
            self.note()
        if time.monotonic() - self._received < self.patience:
            return False
        try:
            return self._database.retrying(self._was_called)
        except Unavailable:
            return False

    def _was_called(self, session: Session) -> bool:
        return outbox.is_repeated(session, self._tasks)

    def watch(self) -> None:
        """Look from time to time; end the process when it is deaf."""
        while True:
            time.sleep(self.patience / 8)
            if self.is_deaf(busy=bool(state.reserved_requests)):
                logger.error("worker.deaf", seconds=self.patience, detail="It is ended.")
                os._exit(os.EX_TEMPFAIL)


def watch_consumption(database: Database, settings: Settings, tasks: Sequence[str]) -> None:
    """Have this worker's parent end itself when it no longer takes messages for `tasks`."""
    consumption = Consumption(database, settings, tasks)

    def begin(**_: Any) -> None:
        consumption.note()
        threading.Thread(target=consumption.watch, name="consumption", daemon=True).start()

    worker_ready.connect(begin, weak=False)
    task_received.connect(consumption.note, weak=False)
