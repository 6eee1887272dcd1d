"""What a worker does with a shard: lease it, work on it, and say how that ended."""

import os
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sqlalchemy.orm import Session

from factory import jobs, log, shards
from factory.db import Database
from factory.errors import FactoryError, LeaseLost, Stopped, TryAgain, Unavailable
from factory.settings import Settings
from factory.shards import Lease
from workers.leases import Hold

logger = log.get(__name__)


@dataclass
class ShardWorker(ABC):
    """A worker of shards. `shutdown` makes it hand back what it works on."""

    kind: ClassVar[str]
    task: ClassVar[str]  # that wakes it

    settings: Settings
    database: Database
    shutdown: threading.Event = field(default_factory=threading.Event)

    @property
    def name(self) -> str:
        """This process, in words."""
        return name_of(self.kind, os.getpid())

    def run_shard(self, shard_id: uuid.UUID) -> None:
        """Work on a shard; but first on those that have lost their worker, as far as nobody else
        takes them meanwhile."""
        begun = self.database.retrying(lambda session: shards.begun(session, self.task))
        for each in dict.fromkeys((*begun, shard_id)):
            self._run_to_end(each)

    def _run_to_end(self, shard_id: uuid.UUID) -> None:
        """Lease a shard and work on it to its end, or until it must be given up."""
        while not self.shutdown.is_set():
            lease = self._claim(shard_id)
            if lease is None or not self._attempt(lease):
                return

    @abstractmethod
    def _work(self, hold: Hold) -> None:
        """Do all that the shard asks for. Raises LeaseLost, Stopped, TryAgain, FactoryError."""

    def _claim(self, shard_id: uuid.UUID) -> Lease | None:
        before = self.database.retrying(lambda s: shards.fence(s, shard_id))
        seconds = self.settings.lease_seconds
        return self.database.retrying(
            lambda s: shards.claim(s, shard_id, self.name, seconds, before=before)
        )

    def _attempt(self, lease: Lease) -> bool:
        """Work under one lease; returns whether to lease the shard again at once."""
        logger.info("shard.started", shard=str(lease.shard_id), fence=lease.fence)
        hold = Hold(self.settings, lease, self.shutdown)
        try:
            return self._run(lease, hold)
        except LeaseLost as error:
            logger.warning("shard.lease_lost", shard=str(lease.shard_id), detail=error.detail)
            if hold.was_cut_off:
                self.database.retrying(lambda session: shards.note_cut_off(session, lease))
            return False

    def _run(self, lease: Lease, hold: Hold) -> bool:
        """Work on a leased shard; however that ends, say so. Returns whether it was handed back
        to be gone on with in another way. Raises LeaseLost."""
        try:
            with hold:
                self._work(hold)
                self._finish(lease)
        except LeaseLost:
            raise
        except (Stopped, TryAgain) as error:
            self._hand_back(lease, error)
            return isinstance(error, TryAgain)
        except Unavailable as error:
            self._hand_back_later(lease, error)
        except FactoryError as error:
            self._give_up(lease, error)
        except Exception as error:
            logger.exception("shard.crashed", shard=str(lease.shard_id))
            self._crash(lease, f"{type(error).__name__}: {error}")
        else:
            logger.info("shard.done", shard=str(lease.shard_id))
        return False

    def _begin(self, lease: Lease, environment: dict[str, Any]) -> uuid.UUID:
        return self.database.retrying(
            lambda s: shards.begin_attempt(s, lease, self.name, environment)
        )

    def _finish(self, lease: Lease) -> None:
        self._end(lease, lambda session: shards.finish(session, lease))

    def _hand_back(self, lease: Lease, error: FactoryError) -> None:
        logger.info("shard.handed_back", shard=str(lease.shard_id), detail=error.detail)
        self.database.retrying(lambda session: shards.hand_back(session, lease))

    def _hand_back_later(self, lease: Lease, error: Unavailable) -> None:
        """What the shard needs is away, which is not its fault: it is handed back as soon as
        the database answers. Raises LeaseLost."""
        while True:
            try:
                return self._hand_back(lease, error)
            except Unavailable:
                if self.shutdown.is_set():
                    raise

    def _give_up(self, lease: Lease, error: FactoryError) -> None:
        """What a retry cannot mend ends the job."""
        logger.warning("job.failed", job=str(lease.job_id), detail=error.detail)
        self.database.retrying(lambda session: _fail(session, lease, error))

    def _crash(self, lease: Lease, error: str) -> None:
        attempts = self.settings.shard_attempts
        self._end(lease, lambda session: shards.crash(session, lease, error, attempts))

    def _end(self, lease: Lease, how: Callable[[Session], None]) -> None:
        """End the lease, and the job if that was its last shard. Raises LeaseLost, also when an
        earlier try did it and only its answer was lost."""

        def work(session: Session) -> None:
            how(session)
            jobs.finish_if_done(session, lease.job_id)

        self.database.retrying(work)


def name_of(kind: str, pid: int) -> str:
    """A worker of this machine, in words."""
    return f"{kind}@{os.uname().nodename}:{pid}"


def _fail(session: Session, lease: Lease, error: FactoryError) -> None:
    shards.hand_back(session, lease)
    jobs.fail(session, lease.job_id, f"{error.title}: {error.detail}")
