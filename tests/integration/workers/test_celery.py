"""A real GPU worker, beat and broker: what is submitted is made once, whoever dies meanwhile."""

import os

from redis import Redis

from factory import dispatch

from .celery_plant import (
    LONG,
    Plant,
    assert_each_once,
    attempts,
    children,
    ended,
    kill_group,
    stored,
)


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
