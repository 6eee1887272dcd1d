"""A real GPU worker, beat and broker: what is submitted is made once, whoever dies meanwhile."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from redis import Redis
from sqlalchemy import select

from factory import datasets, dispatch, jobs
from factory.db import Database
from factory.settings import Settings
from factory.spec import job_spec
from factory.tables import Attempt, Job, Shard

from .factory_floor import Floor, open_floor

REPOSITORY = Path(__file__).parents[3]
PATIENCE = 240  # seconds until something that must happen has not happened
LONG = {"temperature": 2.0, "max_new_tokens": 100}  # a shard of this takes some seconds
WORKER = "-A workers.gpu worker -Q gpu --pool prefork --concurrency 1 --pool-start-method spawn"
CPU_WORKER = "-A workers.cpu worker -Q cpu --pool prefork --concurrency 2"


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


@pytest.fixture(scope="module")
def plant(
    settings: Settings,
    database: Database,
    pair_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Plant]:
    quick = {"lease_seconds": 8, "heartbeat_seconds": 0.5, "outbox_retry_seconds": 0.5}
    quick["stop_seconds"] = 4
    floor = open_floor(settings.model_copy(update=quick), database, pair_folder)
    plant = Plant(floor, tmp_path_factory.mktemp("logs"))
    beat = start(floor, plant.folder, "beat", "factory", "beat")
    yield plant
    plant.close()
    kill_group(beat)


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


def evaluated(floor: Floor, real: int) -> Job:
    """A job that measures this dataset's samples beside so many real ones."""
    lines = [f'{{"text": "{number} ba du ki lo me ro"}}'.encode() for number in range(real)]
    body = {"kind": "evaluate", "dataset": floor.dataset.name, "limit": real // 2}
    with floor.database.transaction() as session:
        datasets.import_lines(session, floor.dataset, lines)
        spec = job_spec.validate_python(body)
        return jobs.submit(session, spec, floor.dataset, None, request=body)[0]


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


def test_a_killed_child_and_a_forgetful_broker_lose_nothing(plant: Plant) -> None:
    floor, worker = plant.floor, plant.worker()
    job = floor.submit(60, 20, sampling=LONG)
    plant.until("samples", stored(floor, job, 5))
    with Redis.from_url(floor.settings.broker_url) as broker:
        broker.flushall()
    for child in children(worker):
        child.kill()
    plant.until("the job's end", ended(floor, job))
    assert_each_once(floor, job)
    assert sum(shard.crashes for shard in floor.shards(job)) == 1
    assert worker.poll() is None
    (how,) = (attempt.error for attempt in attempts(floor, job) if attempt.error)
    assert how.endswith("ended before it was done.")  # its parent said so, before the lease ended


def test_a_killed_worker_loses_and_repeats_nothing(plant: Plant) -> None:
    floor = plant.floor
    plant.worker()
    job = floor.submit(60, 30, sampling=LONG)
    plant.until("samples", stored(floor, job, 5))
    kill_group(plant.worker())
    before = {sample.ordinal: sample.id for sample in floor.samples(job)}
    assert len(before) < 60
    plant.worker()
    plant.until("the job's end", ended(floor, job))
    assert_each_once(floor, job)
    after = {sample.ordinal: sample.id for sample in floor.samples(job)}
    assert before.items() <= after.items()


def test_who_waits_is_answered_in_the_middle_of_a_job(plant: Plant) -> None:
    floor = plant.floor
    plant.worker()
    job = floor.submit(12, 2, sampling=LONG)
    plant.until("samples", stored(floor, job, 1))
    ask = floor.ask("replay", sample=str(floor.samples(job)[0].id))
    plant.until("an answer", lambda: floor.answer(ask).done_at)
    assert (floor.answer(ask).result or {})["identical"] is True
    plant.until("the job's end", ended(floor, job))


def test_a_worker_that_is_told_to_stop_hands_its_shard_back(plant: Plant) -> None:
    floor, worker = plant.floor, plant.worker()
    job = floor.submit(400, 400, sampling=LONG)
    plant.until("samples", stored(floor, job, 5))
    worker.terminate()
    assert worker.wait(15) == 0
    (shard,) = floor.shards(job)
    assert (shard.state, shard.crashes, shard.error) == ("pending", 0, None)
    assert floor.job(job).state == "running"
    assert 5 <= len(floor.samples(job)) < 400
    cancel(floor, job)  # the next worker has other things to do


def test_a_worker_whose_child_is_stuck_ends_in_time_and_its_shard_is_taken_back(
    plant: Plant,
) -> None:
    floor, worker = plant.floor, plant.worker()
    job = floor.submit(400, 400, sampling=LONG)
    plant.until("samples", stored(floor, job, 5))
    (child,) = children(worker)
    child.suspend()
    worker.terminate()
    assert worker.wait(15) == os.EX_TEMPFAIL
    (shard,) = floor.shards(job)
    assert (shard.state, shard.crashes, shard.error) == ("pending", 0, None)
    plant.until("the child's end", lambda: not child.is_running())
    cancel(floor, job)


def test_a_cpu_worker_that_is_told_to_stop_hands_back_what_it_measures(plant: Plant) -> None:
    floor = plant.floor
    plant.worker()
    plant.until("some samples", ended(floor, floor.submit(4, 4)))
    job = evaluated(floor, real=4000)  # they are embedded first, which takes a while
    worker = start(floor, plant.folder, "cpu", "celery", *CPU_WORKER.split())
    try:
        plant.until("a lease", lambda: floor.shards(job)[0].state == "leased")
        worker.terminate()
        worker.wait(15)
        (shard,) = floor.shards(job)
        assert (shard.state, shard.crashes, shard.error) == ("pending", 0, None)
    finally:
        kill_group(worker)
        cancel(floor, job)


def test_a_worker_that_no_longer_takes_messages_ends_itself(plant: Plant) -> None:
    floor, deaf = plant.floor, plant.worker()
    plant.until("the first job's end", ended(floor, floor.submit(1, 1)))
    dispatch.celery_app(floor.settings).control.cancel_consumer(dispatch.GPU_QUEUE)
    job = floor.submit(1, 1)
    plant.until("the worker's end", lambda: deaf.poll() is not None)
    assert deaf.returncode == os.EX_TEMPFAIL
    assert floor.job(job).state == "pending"
    plant.worker()
    plant.until("the job's end", ended(floor, job))
