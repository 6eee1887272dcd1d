"""What a GPU worker does with a shard: lease it, work on it, and say how that ended."""

import os
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from sqlalchemy.orm import Session

from factory import jobs, log, shards
from factory.db import Database
from factory.errors import FactoryError, LeaseLost, ModelError, Stopped
from factory.samples import MadeBy
from factory.settings import Settings
from factory.shards import Lease
from factory.spec import GenerateSpec, job_spec
from factory.tables import Job, ModelPair
from workers import layout
from workers.generate import ShardRun
from workers.interactive import Desk
from workers.leases import Hold
from workers.pairs import PairCache, device_of, software
from workers.train import TrainRun

OUT_OF_MEMORY = (
    "The device's memory is full with a single row. Use a smaller model or a larger device, "
    "fewer negatives, or a smaller sampling.max_new_tokens."
)
KV = "joint"  # negatives are encoded together, in one context

logger = log.get(__name__)


class TooManySlots(FactoryError):
    """The device's memory is full; with fewer rows side by side it may not be."""


@dataclass
class GpuWorker:
    """One device's worker: its models, and what it is asked to do. `shutdown` makes it hand
    back what it works on."""

    settings: Settings
    database: Database
    shutdown: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._slots: dict[str, int] = {}  # of pairs for which the settings' were too many
        self.pairs = PairCache(self.settings, self.database)
        self.desk = Desk(self.database, self.pairs)

    @property
    def name(self) -> str:
        """This process, in words."""
        return f"gpu@{os.uname().nodename}:{os.getpid()}"

    def run_shard(self, shard_id: uuid.UUID) -> None:
        """Lease a shard and work on it to its end, or until it must be given up."""
        self.desk.serve_all()
        while not self.shutdown.is_set():
            lease = self._claim(shard_id)
            if lease is None or not self._attempt(lease):
                return
            self.pairs.free_memory()

    def _attempt(self, lease: Lease) -> bool:
        """Work under one lease; returns whether to lease the shard again at once."""
        logger.info("shard.started", shard=str(lease.shard_id), fence=lease.fence)
        try:
            return self._run(lease)
        except LeaseLost as error:
            logger.warning("shard.lease_lost", shard=str(lease.shard_id), detail=error.detail)
            return False

    def _claim(self, shard_id: uuid.UUID) -> Lease | None:
        before = self.database.retrying(lambda s: shards.fence(s, shard_id))
        seconds = self.settings.lease_seconds
        return self.database.retrying(
            lambda s: shards.claim(s, shard_id, self.name, seconds, before=before)
        )

    def _run(self, lease: Lease) -> bool:
        """Work on a leased shard; however that ends, say so. Returns whether it was handed back
        to be gone on with in less memory. Raises LeaseLost."""
        try:
            with Hold(self.settings, lease, self.shutdown) as hold:
                self._work(hold)
        except LeaseLost:
            raise
        except Stopped as error:
            self._hand_back(lease, error)
        except TooManySlots as error:
            self._hand_back(lease, error)
            return True
        except FactoryError as error:
            self._give_up(lease, error)
        except torch.OutOfMemoryError as error:
            self._give_up(lease, ModelError(f"{OUT_OF_MEMORY} {error}"))
        except Exception as error:
            logger.exception("shard.crashed", shard=str(lease.shard_id))
            self._crash(lease, f"{type(error).__name__}: {error}")
        else:
            logger.info("shard.done", shard=str(lease.shard_id))
        return False

    def _work(self, hold: Hold) -> None:
        job, model = self.database.retrying(lambda s: _job_and_model(s, hold.lease))
        spec = job_spec.validate_python(job.spec)
        if isinstance(spec, GenerateSpec):
            assert model is not None, "a generate job names a model"  # noqa: S101
            self._generate(hold, job, spec, model)
        else:
            device = device_of(self.settings)
            self._begin(hold.lease, {"device": device, "software": software()})
            TrainRun(self.database, self.settings, hold, job.id, spec, device).run()
        self._finish(hold.lease)

    def _generate(self, hold: Hold, job: Job, spec: GenerateSpec, model: ModelPair) -> None:
        pair = self.pairs.load(model)
        slots = self._slots.get(model.name, self.settings.slots)
        made_on = pair.environment(slots)
        attempt_id = self._begin(hold.lease, {"layout": layout.NAME, "kv": KV, **made_on})
        by = MadeBy(job.dataset_id, job.id, hold.lease.shard_id, attempt_id)
        try:
            ShardRun(self.database, self.settings, hold, spec, pair, by, slots).run()
        except torch.OutOfMemoryError as error:
            if slots == 1:
                raise
            self._slots[model.name] = slots // 2
            told = f"{slots} slots do not fit into {made_on['device']}: {slots // 2} from now on."
            raise TooManySlots(told) from error

    def _begin(self, lease: Lease, environment: dict[str, Any]) -> uuid.UUID:
        return self.database.retrying(
            lambda s: shards.begin_attempt(s, lease, self.name, environment)
        )

    def _finish(self, lease: Lease) -> None:
        self._end(lease, lambda session: shards.finish(session, lease))

    def _hand_back(self, lease: Lease, error: FactoryError) -> None:
        logger.info("shard.handed_back", shard=str(lease.shard_id), detail=error.detail)
        self.database.retrying(lambda session: shards.hand_back(session, lease))

    def _give_up(self, lease: Lease, error: FactoryError) -> None:
        """What a retry cannot mend ends the job; the rest is a crash."""
        if error.retryable:
            self._crash(lease, error.detail)
            return
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


def _job_and_model(session: Session, lease: Lease) -> tuple[Job, ModelPair | None]:
    job = session.get_one(Job, lease.job_id)
    return job, session.get(ModelPair, job.model_id) if job.model_id else None


def _fail(session: Session, lease: Lease, error: FactoryError) -> None:
    shards.hand_back(session, lease)
    jobs.fail(session, lease.job_id, f"{error.title}: {error.detail}")
