"""Celery entry of GPU workers: ids in, rows out.

    celery -A workers.gpu worker -Q gpu        (what `factory worker gpu` runs)

One child per device; models are touched only in the child. SIGTERM lets the batch in hand be
stored, hands the shard back and ends.
"""

import os
import signal
import threading
import uuid
from dataclasses import dataclass, field
from typing import Any

import torch
from billiard import active_children
from celery.signals import worker_process_init, worker_shutting_down

from factory import jobs, log, models, outbox, shards
from factory.errors import DecodingError, FactoryError, LeaseLost, Stopped
from factory.samples import MadeBy
from factory.shards import Lease
from factory.spec import GenerateSpec, job_spec
from factory.tables import Job, ModelPair
from workers import layout, process
from workers.generate import ShardRun
from workers.interactive import Desk
from workers.leases import Hold
from workers.pairs import LoadedPair, PairCache
from workers.process import Worker
from workers.train import TrainRun

KV = "joint"  # negatives are encoded together, in one context

logger = log.get(__name__)


@dataclass
class GpuWorker:
    """One device's worker: its models, and what it is asked to do."""

    worker: Worker
    shutdown: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.pairs = PairCache(self.worker.settings)
        self.desk = Desk(self.worker.database, self.pairs)

    @property
    def name(self) -> str:
        """This process, in words."""
        return f"gpu@{os.uname().nodename}:{os.getpid()}"

    def run_shard(self, shard_id: uuid.UUID) -> None:
        """Lease a shard and work on it to its end, or until it must be given up."""
        self.desk.serve_all()
        settings, database = self.worker.settings, self.worker.database
        if self.shutdown.is_set():
            return
        with database.transaction() as session:
            lease = shards.claim(session, shard_id, self.name, settings.lease_seconds)
        if lease is None:
            return
        logger.info("shard.started", shard=str(shard_id), fence=lease.fence)
        try:
            with Hold(settings, lease, self.shutdown) as hold:
                self._work(hold)
        except LeaseLost as error:
            logger.warning("shard.lease_lost", shard=str(shard_id), detail=error.detail)
        except Stopped as error:
            self._hand_back(lease, error)
        except (DecodingError, FactoryError) as error:
            self._give_up(lease, error)
        except Exception as error:
            logger.exception("shard.crashed", shard=str(shard_id))
            self._crash(lease, f"{type(error).__name__}: {error}")
        else:
            logger.info("shard.done", shard=str(shard_id))

    def _work(self, hold: Hold) -> None:
        with self.worker.database.transaction() as session:
            job = session.get_one(Job, hold.lease.job_id)
            model = session.get(ModelPair, job.model_id) if job.model_id else None
        spec = job_spec.validate_python(job.spec)
        if isinstance(spec, GenerateSpec):
            assert model is not None, "a generate job names a model"  # noqa: S101
            self._generate(hold, job, spec, model)
        else:
            device = "cuda:0" if torch.cuda.is_available() else "cpu"
            settings, database = self.worker.settings, self.worker.database
            self._begin(hold.lease, {"device": device})
            TrainRun(database, settings, hold, job.id, spec, device).run()
        self._finish(hold.lease)

    def _generate(self, hold: Hold, job: Job, spec: GenerateSpec, model: ModelPair) -> None:
        pair = self._load(model)
        settings = self.worker.settings
        made_on = pair.environment(settings.slots)
        attempt_id = self._begin(hold.lease, {"layout": layout.NAME, "kv": KV, **made_on})
        by = MadeBy(job.dataset_id, job.id, hold.lease.shard_id, attempt_id)
        ShardRun(self.worker.database, settings, hold, spec, pair, by).run()

    def _load(self, model: ModelPair) -> LoadedPair:
        pair = self.pairs.load(model)
        with self.worker.database.transaction() as session:
            models.record_digests(session, model.id, pair.digests)
        return pair

    def _begin(self, lease: Lease, environment: dict[str, Any]) -> uuid.UUID:
        with self.worker.database.transaction() as session:
            return shards.begin_attempt(session, lease, self.name, environment)

    def _finish(self, lease: Lease) -> None:
        with self.worker.database.transaction() as session:
            shards.finish(session, lease)
            jobs.finish_if_done(session, lease.job_id)

    def _hand_back(self, lease: Lease, error: Stopped) -> None:
        logger.info("shard.handed_back", shard=str(lease.shard_id), detail=error.detail)
        with self.worker.database.transaction() as session:
            shards.hand_back(session, lease)

    def _give_up(self, lease: Lease, error: FactoryError) -> None:
        """What a retry cannot mend ends the job; the rest is a crash."""
        if error.retryable:
            self._crash(lease, error.detail)
            return
        logger.warning("job.failed", job=str(lease.job_id), detail=error.detail)
        with self.worker.database.transaction() as session:
            shards.hand_back(session, lease)
            jobs.fail(session, lease.job_id, f"{error.title}: {error.detail}")

    def _crash(self, lease: Lease, error: str) -> None:
        with self.worker.database.transaction() as session:
            shards.crash(session, lease, error, self.worker.settings.shard_attempts)
            jobs.finish_if_done(session, lease.job_id)


worker = process.start()
app = worker.app
gpu = GpuWorker(worker)


@worker.task(outbox.RUN_SHARD)
def run_shard(shard_id: str) -> None:
    """Work on one shard."""
    gpu.run_shard(uuid.UUID(shard_id))


@worker.task(outbox.SERVE)
def serve(request_id: str) -> None:
    """Answer everyone who waits, this request among them."""
    gpu.desk.serve_all()


def _in_child(**_: Any) -> None:
    signal.signal(signal.SIGTERM, lambda *_: gpu.shutdown.set())


def _in_parent(**_: Any) -> None:
    for child in active_children():
        os.kill(child.pid, signal.SIGTERM)


worker_process_init.connect(_in_child, weak=False)
worker_shutting_down.connect(_in_parent, weak=False)
