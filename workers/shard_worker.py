"""What a worker does with a shard: lease it, work on it, and say how that ended."""

import os
import threading
import uuid
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from factory import jobs, log, shards
from factory.db import Database
from factory.errors import FactoryError, LeaseLost, Stopped
from factory.settings import Settings
from factory.shards import Lease
from workers.leases import Hold

logger = log.get(__name__)


@dataclass
class ShardWorker(ABC):
    """A worker of shards. `shutdown` makes it hand back what it works on."""

    kind: ClassVar[str]

    settings: Settings
    database: Database
    shutdown: threading.Event = field(default_factory=threading.Event)

    @property
    def name(self) -> str:
        """This process, in words."""
        return f"{self.kind}@{os.uname().nodename}:{os.getpid()}"

    def run_shard(self, shard_id: uuid.UUID) -> None:
        """Lease a shard and work on it to its end, or until it must be given up."""
        if self.shutdown.is_set():
            return
        with self.database.transaction() as session:
            lease = shards.claim(session, shard_id, self.name, self.settings.lease_seconds)
        if lease is None:
            return
        logger.info("shard.started", shard=str(shard_id), fence=lease.fence)
        try:
            self._run(lease)
        except LeaseLost as error:
            logger.warning("shard.lease_lost", shard=str(shard_id), detail=error.detail)

    @abstractmethod
    def _work(self, hold: Hold) -> None:
        """Do all that the shard asks for. Raises LeaseLost, Stopped, FactoryError."""

    def _run(self, lease: Lease) -> None:
        """Work on a leased shard; however that ends, say so. Raises LeaseLost."""
        try:
            with Hold(self.settings, lease, self.shutdown) as hold:
                self._work(hold)
                self._finish(lease)
        except LeaseLost:
            raise
        except Stopped as error:
            self._hand_back(lease, error)
        except FactoryError as error:
            self._give_up(lease, error)
        except Exception as error:
            logger.exception("shard.crashed", shard=str(lease.shard_id))
            self._crash(lease, f"{type(error).__name__}: {error}")
        else:
            logger.info("shard.done", shard=str(lease.shard_id))

    def _begin(self, lease: Lease, environment: dict[str, Any]) -> uuid.UUID:
        with self.database.transaction() as session:
            return shards.begin_attempt(session, lease, self.name, environment)

    def _finish(self, lease: Lease) -> None:
        with self.database.transaction() as session:
            shards.finish(session, lease)
            jobs.finish_if_done(session, lease.job_id)

    def _hand_back(self, lease: Lease, error: Stopped) -> None:
        logger.info("shard.handed_back", shard=str(lease.shard_id), detail=error.detail)
        with self.database.transaction() as session:
            shards.hand_back(session, lease)

    def _give_up(self, lease: Lease, error: FactoryError) -> None:
        """What a retry cannot mend ends the job; the rest is a crash."""
        if error.retryable:
            self._crash(lease, error.detail)
            return
        logger.warning("job.failed", job=str(lease.job_id), detail=error.detail)
        with self.database.transaction() as session:
            shards.hand_back(session, lease)
            jobs.fail(session, lease.job_id, f"{error.title}: {error.detail}")

    def _crash(self, lease: Lease, error: str) -> None:
        with self.database.transaction() as session:
            shards.crash(session, lease, error, self.settings.shard_attempts)
            jobs.finish_if_done(session, lease.job_id)
