"""A worker's hold on a shard: renewed by a thread of its own, given up when it must be."""

import threading
from types import TracebackType
from typing import Self

from sqlalchemy.orm import Session

from factory import log, shards
from factory.db import Database
from factory.errors import FactoryError, LeaseLost, Stopped, Unavailable
from factory.settings import Settings
from factory.shards import Lease
from workers.watchdog import Watchdog

logger = log.get(__name__)


class Hold:
    """Keeps a lease alive while its block runs, on a database connection of its own.

    `check` raises what ended it: LeaseLost, or Stopped when the job was paused or cancelled or
    this worker is shutting down. The lease is renewed however long a step takes; a step that
    takes longer than the settings allow ends the process, and with it the lease.
    """

    def __init__(self, settings: Settings, lease: Lease, shutdown: threading.Event) -> None:
        self.lease = lease
        self.was_cut_off = False  # from the database, for as long as between two renewals
        self._settings = settings
        self._shutdown = shutdown
        self._watchdog = Watchdog(settings.stall_seconds)
        self._released = threading.Event()
        self._ended: FactoryError | None = None
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._watchdog.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._released.set()
        self._thread.join()
        self._watchdog.__exit__(kind, error, trace)

    def check(self) -> None:
        """Call it at each step of the work: raises if the work must stop."""
        self._watchdog.step()
        if self._ended is not None:
            raise self._ended
        if self._shutdown.is_set():
            raise Stopped("This worker is shutting down.")

    def renew(self, session: Session) -> None:
        """Prolong the lease in this transaction, and hold the shard for its length. Raises
        LeaseLost, which undoes the transaction; notes when the job was stopped."""
        state = shards.renew(session, self.lease, self._settings.lease_seconds)
        if state not in ("pending", "running"):
            self._ended = Stopped(f"The job was {state}.")

    def _beat(self) -> None:
        database = Database(self._settings.database_url, pool_size=1)
        while not self._released.wait(self._settings.heartbeat_seconds):
            try:
                database.retrying(self.renew, self._settings.heartbeat_seconds)
            except LeaseLost as error:
                self._ended = error
                break
            except Unavailable as error:
                self.was_cut_off = True
                logger.warning(
                    "lease.not_renewed", shard=str(self.lease.shard_id), error=str(error)
                )
        database.close()
