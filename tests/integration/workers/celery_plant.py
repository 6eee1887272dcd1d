"""A real GPU worker and beat on a broker, and what tests want to know of them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from sqlalchemy import select

from factory import jobs
from factory.tables import Attempt, Job, Shard

from .factory_floor import Floor

REPOSITORY = Path(__file__).parents[3]
PATIENCE = 240  # seconds until something that must happen has not happened
LONG = {"temperature": 2.0, "max_new_tokens": 100}  # a shard of this takes some seconds
WORKER = "-A workers.gpu worker -Q gpu --pool prefork -c 1 -l INFO --pool-start-method spawn"


@dataclass
class Plant:
    """A floor with a beat, and a worker when it is asked for."""

    floor: Floor
    folder: Path
    _worker: subprocess.Popen[bytes] | None = None

    def worker(self) -> subprocess.Popen[bytes]:
        """The worker that runs, started if none does."""
        if self._worker is None or self._worker.poll() is not None:
            self._worker = start(self.floor, self.folder, "worker", "celery", *WORKER.split())
        return self._worker

    def until(self, what: str, happened: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not happened():
            if time.monotonic() > end:
                logs = "".join(log.read_text()[-3000:] for log in self.folder.glob("*.log"))
                raise AssertionError(f"{what}: not within {PATIENCE} s\n{logs}")
            time.sleep(0.1)

    def close(self) -> None:
        if self._worker is not None:
            kill_group(self._worker)


def start(floor: Floor, folder: Path, name: str, *module: str) -> subprocess.Popen[bytes]:
    """A process of the factory, in a group of its own."""
    settings = floor.settings
    environment = {
        "FACTORY_HOME": str(settings.home),
        "FACTORY_DATABASE_URL": settings.database_url,
        "FACTORY_BROKER_URL": settings.broker_url,
        "FACTORY_DEVICE": "cpu",
        "FACTORY_SLOTS": str(settings.slots),
        "FACTORY_COMMIT_BATCH": str(settings.commit_batch),
        "FACTORY_LEASE_SECONDS": str(settings.lease_seconds),
        "FACTORY_HEARTBEAT_SECONDS": str(settings.heartbeat_seconds),
        "FACTORY_OUTBOX_RETRY_SECONDS": str(settings.outbox_retry_seconds),
        "FACTORY_STOP_SECONDS": str(settings.stop_seconds),
        "OMP_NUM_THREADS": "1",
    }
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *module],
            cwd=REPOSITORY,
            env={**os.environ, **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def attempts(floor: Floor, job: Job) -> Sequence[Attempt]:
    with floor.database.transaction() as session:
        mine = (
            select(Attempt).join(Shard, Attempt.shard_id == Shard.id).where(Shard.job_id == job.id)
        )
        return session.scalars(mine).all()


def ended(floor: Floor, job: Job) -> Callable[[], bool]:
    return lambda: floor.job(job).ended_at is not None


def stored(floor: Floor, job: Job, least: int) -> Callable[[], bool]:
    return lambda: len(floor.samples(job)) >= least


def cancel(floor: Floor, job: Job) -> None:
    with floor.database.transaction() as session:
        jobs.cancel(session, job.id)


def assert_each_once(floor: Floor, job: Job) -> None:
    now = floor.job(job)
    assert (now.state, now.error) == ("succeeded", None)
    assert [sample.ordinal for sample in floor.samples(job)] == list(range(now.count))


def children(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The pool's children: those that run Python's spawn entry for a worker."""
    found = psutil.Process(process.pid).children(recursive=True)
    return [child for child in found if "spawn_main" in " ".join(child.cmdline())]
