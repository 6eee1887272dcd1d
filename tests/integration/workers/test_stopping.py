"""Real workers that are told to stop: they end in time, and what they held goes on."""

import os

import psutil

from factory import datasets, jobs
from factory.local import process
from factory.spec import job_spec
from factory.tables import Job

from .celery_plant import LONG, Plant, cancel, children, ended, kill_group, start, stored
from .factory_floor import Floor

CPU_WORKER = "-A workers.cpu worker -Q cpu --pool prefork --concurrency 2"


def evaluated(floor: Floor, real: int) -> Job:
    """A job that measures this dataset's samples beside so many real ones."""
    lines = [f'{{"text": "{number} ba du ki lo me ro"}}'.encode() for number in range(real)]
    body = {"kind": "evaluate", "dataset": floor.dataset.name, "limit": real // 2}
    with floor.database.transaction() as session:
        datasets.import_lines(session, floor.dataset, lines)
        spec = job_spec.validate_python(body)
        return jobs.submit(session, spec, floor.dataset, None, request=body)[0]


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


def test_a_child_that_ends_does_not_wait_for_a_parent_that_does_not_listen(plant: Plant) -> None:
    floor = plant.floor
    worker = psutil.Process(plant.worker().pid)
    done = lambda: (plant.folder / "worker.log").read_text().count("succeeded in")  # noqa: E731
    before = done()
    job = floor.submit(20, 20, sampling=LONG)
    plant.until("a sample", stored(floor, job, 1))
    (child,) = children(plant.worker())
    worker.suspend()
    plant.until("the job's end", ended(floor, job))
    plant.until("the task's end", lambda: done() > before)
    child.terminate()
    assert process.until(lambda: child.status() == psutil.STATUS_ZOMBIE, 25)  # it waited 30
    worker.resume()
