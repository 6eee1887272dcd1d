"""What goes on right now: workers, the queue, samples a minute, acceptance; measured speed."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import update

from factory import load, reviews, speed
from factory.tables import Attempt, Shard

from .world import World, made


def test_a_worker_that_holds_a_shard_is_at_work(world: World) -> None:
    job = world.submit(8, 4)
    first, second = world.shards_of(job)
    done = world.lease(first, "busy")
    world.store(done, [made(n, f"text {n}") for n in range(4)])
    world.finish(done)
    world.lease(second, "busy")
    with world.database.transaction() as session:
        long_ago = datetime.now(UTC) - timedelta(seconds=300)
        session.execute(
            update(Attempt).where(Attempt.shard_id == second).values(started_at=long_ago)
        )
        [worker] = load.workers(session)
        assert (worker.name, worker.device, worker.holding) == ("w", "cpu", 1)
        assert worker.busy == pytest.approx(0.5, abs=0.05)
        session.execute(update(Shard).where(Shard.id == second).values(lease_until=long_ago))
        [gone] = load.workers(session)
        assert gone.holding == 0


def test_the_queue_is_what_no_worker_has_begun(world: World) -> None:
    with world.database.transaction() as session:
        before = load.queue(session)
    job = world.submit(10, 4)
    world.lease(world.shards_of(job)[0])
    with world.database.transaction() as session:
        queue = load.queue(session)
    assert (queue.shards - before.shards, queue.samples - before.samples) == (2, 6)


def test_samples_are_counted_in_the_minute_they_were_made(world: World) -> None:
    with world.database.transaction() as session:
        before = load.samples_by_minute(session)
    world.generated(["one", "two", "three"])
    with world.database.transaction() as session:
        after = load.samples_by_minute(session)
    assert len(after) == load.MINUTES
    assert sum(after) - sum(before) == 3
    assert sum(after[-2:]) >= 3


def test_acceptance_is_told_by_day(world: World) -> None:
    rows = world.generated(["a", "b", "c"], push=True)
    now = datetime.now(UTC)
    with world.database.transaction() as session:
        for n, (row, verdict) in enumerate(zip(rows, ("accept", "accept", "reject"), strict=True)):
            given = reviews.Verdict(9000 + n, n, verdict, (), None, None, "ada", 1.0, now, now)
            reviews.apply(session, row.id, given)
        reviews.withdraw(session, 9000)
        days = load.acceptance(session)
    assert len(days) == load.DAYS
    assert (days[-1].day, days[-1].accepted, days[-1].verdicts) == (now.date(), 1, 2)


def test_speed_is_that_of_shards_with_the_same_streams(world: World) -> None:
    eta, none = {"gamma": 0.0, "eta": 0.5}, {"gamma": 0.0, "eta": 0.0}
    with world.database.transaction() as session:
        assert speed.of_model(session, world.model.id, eta) is None
    for guidance, seconds in ((eta, 8), (none, 2)):
        job = world.submit(4, 4, guidance=guidance)
        [shard] = world.shards_of(job)
        lease = world.lease(shard)
        world.store(lease, [made(n, "a b") for n in range(4)])
        world.finish(lease)
        with world.database.transaction() as session:
            begun = update(Attempt).where(Attempt.shard_id == shard)
            took = timedelta(seconds=seconds)
            session.execute(begun.values(started_at=Attempt.ended_at - took))
    with world.database.transaction() as session:
        slow = speed.of_model(session, world.model.id, eta)
        fast = speed.of_model(session, world.model.id, none)
        other = speed.of_model(session, world.model.id, {"gamma": 1.0, "eta": 0.5})
    assert slow is not None
    assert fast is not None
    assert other is not None
    assert (slow.samples, slow.seconds, slow.alike) == (4, pytest.approx(8, abs=0.1), True)
    assert fast.estimate(100)[1] == pytest.approx(50, abs=3)
    assert (other.samples, other.alike) == (8, False)
