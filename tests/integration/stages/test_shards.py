"""Shards: leased by one worker at a time, and brought to an end whatever their workers do."""

import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import delete, select

from factory import jobs, outbox, samples, shards
from factory.db import Database
from factory.errors import LeaseLost
from factory.ids import new_id
from factory.samples import Failed
from factory.shards import Lease
from factory.spec import ReviewSpec
from factory.tables import Attempt, Failure, Job, Outbox, Sample, Shard

from .world import World, made, world_in

ATTEMPTS = 3


def crash(world: World, lease: Lease, error: str = "boom") -> Job:
    with world.database.transaction() as session:
        shards.crash(session, lease, error, ATTEMPTS)
        return jobs.finish_if_done(session, lease.job_id)


def reap(database: Database) -> list[uuid.UUID]:
    with database.transaction() as session:
        freed = list(shards.reap(session, ATTEMPTS))
        for job_id in freed:
            jobs.finish_if_done(session, job_id)
        return freed


def shard(world: World, shard_id: uuid.UUID) -> Shard:
    with world.database.transaction() as session:
        return session.get_one(Shard, shard_id)


def test_a_shard_is_leased_once(world: World) -> None:
    shard_id = world.shards_of(world.submit(4, 4))[0]
    together = threading.Barrier(6)

    def claim(worker: int) -> Lease | None:
        together.wait()
        with world.database.transaction() as session:
            return shards.claim(session, shard_id, f"w{worker}", 60)

    with ThreadPoolExecutor(6) as pool:
        leases = [lease for lease in pool.map(claim, range(6)) if lease]
    assert [(lease.fence, lease.start, lease.stop) for lease in leases] == [(1, 0, 4)]


def test_a_resumed_shard_misses_just_what_is_not_stored(world: World) -> None:
    shard_id = world.shards_of(world.submit(9, 9))[0]
    lease = world.lease(shard_id)
    world.store(lease, [made(0), Failed(3, "NaN"), made(5)])
    with world.database.transaction() as session:
        shards.hand_back(session, lease)
    again = world.lease(shard_id)
    with world.database.transaction() as session:
        assert shards.missing(session, again) == [1, 2, 4, 6, 7, 8]
    assert shard(world, shard_id).crashes == 0


def test_an_ordinal_that_is_there_is_left_as_it_is(world: World) -> None:
    lease = world.lease(world.shards_of(world.submit(2, 2))[0])
    world.store(lease, [made(0, "first")])
    world.store(lease, [made(0, "second", negatives=()), made(1, "other")])
    with world.database.transaction() as session:
        page = samples.list_page(session, world.dataset.id)
    assert sorted(sample.text for sample in page) == ["first", "other"]


@pytest.mark.parametrize("act", ["store", "finish", "hand_back", "crash"])
def test_a_worker_whose_lease_was_given_away_can_write_nothing(world: World, act: str) -> None:
    shard_id = world.shards_of(world.submit(2, 2))[0]
    old = world.lease(shard_id, "old")
    old_attempt = world.made_by(old)
    world.expire(old)
    reap(world.database)
    new = world.lease(shard_id, "new")

    def late() -> None:
        with world.database.transaction() as session:
            if act == "store":
                shards.renew(session, old, 60)
                samples.store(session, old_attempt, [made(0)], ReviewSpec())
            elif act == "crash":
                shards.crash(session, old, "late", ATTEMPTS)
            else:
                getattr(shards, act)(session, old)

    with pytest.raises(LeaseLost):
        late()
    now = shard(world, shard_id)
    assert (now.state, now.fence, now.worker, now.crashes) == ("leased", new.fence, "new", 1)
    with world.database.transaction() as session:
        assert shards.missing(session, new) == [0, 1]


def test_a_lease_that_is_renewed_does_not_run_out(world: World) -> None:
    lease = world.lease(world.shards_of(world.submit(1, 1))[0])
    world.expire(lease)
    with world.database.transaction() as session:
        assert shards.renew(session, lease, 60) == "running"
    assert lease.job_id not in reap(world.database)
    assert shard(world, lease.shard_id).state == "leased"


def test_a_lease_that_an_outage_took_is_no_crash(world: World) -> None:
    shard_id = world.shards_of(world.submit(2, 2))[0]
    for _ in range(ATTEMPTS + 1):
        lease = world.lease(shard_id, "cut off")
        world.expire(lease)
        reap(world.database)
        for _ in range(2):  # the first answer was lost
            with world.database.transaction() as session:
                shards.note_cut_off(session, lease)
        assert shard(world, shard_id).crashes == 0
    assert shard(world, shard_id).state == "pending"


def test_only_a_lease_that_was_reaped_is_counted_off(world: World) -> None:
    shard_id = world.shards_of(world.submit(2, 2))[0]
    lease = world.lease(shard_id)
    crash(world, lease)
    with world.database.transaction() as session:
        shards.note_cut_off(session, lease)
    assert shard(world, shard_id).crashes == 1


def test_what_a_worker_held_that_is_known_to_be_dead_is_free_at_once(world: World) -> None:
    dead, other = (
        world.lease(id_, name)
        for id_, name in zip(world.shards_of(world.submit(4, 2)), ("dead", "alive"), strict=True)
    )
    with world.database.transaction() as session:
        assert list(shards.free(session, ["dead"], ATTEMPTS)) == [dead.job_id]
    freed, held = shard(world, dead.shard_id), shard(world, other.shard_id)
    assert (freed.state, freed.crashes) == ("pending", 1)
    assert freed.error == "Worker dead ended before it was done."
    assert held.state == "leased"


def test_what_a_stopping_worker_did_not_hand_back_is_taken_back_and_counts_as_no_crash(
    world: World,
) -> None:
    late, other = (
        world.lease(id_, name)
        for id_, name in zip(world.shards_of(world.submit(4, 2)), ("late", "alive"), strict=True)
    )
    with world.database.transaction() as session:
        assert shards.take_back(session, ["late", "idle"]) == 1
        assert outbox.version(session, outbox.RUN_SHARD, late.shard_id) is not None
        assert outbox.version(session, outbox.RUN_SHARD, other.shard_id) is None
    taken, held = shard(world, late.shard_id), shard(world, other.shard_id)
    assert (taken.state, taken.crashes, taken.error) == ("pending", 0, None)
    assert held.state == "leased"
    with pytest.raises(LeaseLost), world.database.transaction() as session:
        shards.finish(session, late)


def test_a_shard_that_was_begun_goes_before_new_ones(world: World) -> None:
    with world.database.transaction() as session:
        session.execute(delete(Outbox))  # of other tests
    job = world.submit(6, 2)

    def begun() -> Sequence[uuid.UUID]:
        with world.database.transaction() as session:
            return shards.begun(session, outbox.RUN_SHARD)

    first, second, _ = (world.lease(id_) for id_ in world.shards_of(job))
    assert begun() == []
    for lease in (second, first):
        with world.database.transaction() as session:
            shards.hand_back(session, lease)
    assert begun() == [first.shard_id, second.shard_id]  # who loses one to another takes the next
    with world.database.transaction() as session:
        jobs.pause(session, job.id)
    assert begun() == []


def test_a_shard_whose_workers_keep_dying_is_given_up(world: World) -> None:
    job = world.submit(2, 1)
    good, bad = world.shards_of(job)
    lease = world.lease(good)
    world.store(lease, [made(0)])
    world.finish(lease)
    for attempt in range(1, ATTEMPTS + 1):
        world.expire(world.lease(bad, "dying"))
        reap(world.database)
        assert shard(world, bad).crashes == attempt
    dead = shard(world, bad)
    assert dead.state == "dead"
    assert dead.error == ("Worker dying was not heard of before its lease ran out. (3 attempts)")
    ended = world.job(job)
    assert ended.state == "partial"
    assert "Worker dying" in (ended.error or "")


def test_a_job_all_of_whose_shards_are_given_up_has_failed(world: World) -> None:
    job = world.submit(1, 1)
    for _ in range(ATTEMPTS):
        crash(world, world.lease(world.shards_of(job)[0]), "no memory")
    ended = world.job(job)
    assert (ended.state, ended.ended_at is not None) == ("failed", True)
    assert "no memory (3 attempts)" in (ended.error or "")


def test_reapers_at_once_free_each_shard_once(world: World) -> None:
    made_jobs = [world.submit(3, 1) for _ in range(4)]
    leases = [world.lease(s) for job in made_jobs for s in world.shards_of(job)]
    for lease in leases:
        world.expire(lease)
    together = threading.Barrier(3)

    def free(_: int) -> list[uuid.UUID]:
        together.wait()
        return reap(world.database)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(free, range(3)))
    states = {(s.state, s.crashes) for s in (shard(world, x.shard_id) for x in leases)}
    assert states == {("pending", 1)}


def test_every_lease_leaves_an_attempt_that_says_how_it_ended(world: World) -> None:
    shard_id = world.shards_of(world.submit(1, 1))[0]
    crash(world, world.lease(shard_id), "boom")
    lease = world.lease(shard_id)
    with world.database.transaction() as session:
        shards.hand_back(session, lease)
    lease = world.lease(shard_id)
    world.store(lease, [made(0)])
    world.finish(lease)
    with world.database.transaction() as session:
        rows = session.scalars(
            select(Attempt).where(Attempt.shard_id == shard_id).order_by(Attempt.fence)
        ).all()
    assert [(row.fence, row.error) for row in rows] == [(1, "boom"), (2, None), (3, None)]
    assert all(row.ended_at for row in rows)


def shard_machine(database: Database) -> type[RuleBasedStateMachine]:
    """Fake workers that do to one job's shards whatever workers, people and clocks may do."""

    class ShardMachine(RuleBasedStateMachine):
        @initialize(count=st.integers(1, 6), size=st.integers(1, 3))
        def submit(self, count: int, size: int) -> None:
            self.world = world_in(database)
            self.job_row = self.world.submit(count, size)
            self.shard_ids = self.world.shards_of(self.job_row)
            self.leases: list[Lease] = []  # every one there ever was, the old ones too

        @rule(which=st.integers(0, 5))
        def claim(self, which: int) -> None:
            shard_id = self.shard_ids[which % len(self.shard_ids)]
            before = shard(self.world, shard_id)
            live = self.world.job(self.job_row).state in ("pending", "running")
            with database.transaction() as session:
                lease = shards.claim(session, shard_id, "w", 60)
                if lease:
                    self.world.begin(session, lease)
            assert (lease is not None) == (before.state == "pending" and live)
            if lease:
                assert lease.fence == before.fence + 1
                self.leases.append(lease)

        @precondition(lambda self: self.leases)
        @rule(which=st.integers(0, 9), number=st.integers(1, 3), fails=st.booleans())
        def store(self, which: int, number: int, fails: bool) -> None:
            lease = self.lease(which)
            with database.transaction() as session:
                missing = shards.missing(session, lease)[:number]
            rows = [Failed(i, "NaN") if fails else made(i) for i in missing]
            self.write(lease, lambda: self.world.store(lease, rows))

        @precondition(lambda self: self.leases)
        @rule(which=st.integers(0, 9))
        def finish(self, which: int) -> None:
            """As a worker does: first what is missing, then the end."""
            lease = self.lease(which)
            with database.transaction() as session:
                missing = shards.missing(session, lease)
            if self.write(lease, lambda: self.world.store(lease, [made(i) for i in missing])):
                self.write(lease, lambda: self.world.finish(lease))

        @precondition(lambda self: self.leases)
        @rule(which=st.integers(0, 9))
        def hand_back(self, which: int) -> None:
            lease = self.lease(which)

            def act() -> None:
                with database.transaction() as session:
                    shards.hand_back(session, lease)

            self.write(lease, act)

        @precondition(lambda self: self.leases)
        @rule(which=st.integers(0, 9))
        def crash(self, which: int) -> None:
            lease = self.lease(which)
            self.write(lease, lambda: crash(self.world, lease))

        @precondition(lambda self: self.leases)
        @rule(which=st.integers(0, 9))
        def run_out(self, which: int) -> None:
            self.world.expire(self.lease(which))
            reap(database)

        @rule(change=st.sampled_from(["pause", "resume", "cancel"]))
        def decide(self, change: str) -> None:
            state = self.world.job(self.job_row).state
            allowed = state == "paused" if change == "resume" else state in jobs.LIVE
            if not allowed or (change == "cancel" and len(self.leases) < 3):
                return
            with database.transaction() as session:
                getattr(jobs, change)(session, self.job_row.id)

        def lease(self, which: int) -> Lease:
            return self.leases[which % len(self.leases)]

        def write(self, lease: Lease, act: object) -> bool:
            """Do it; it succeeds just when the lease is the one that counts."""
            now = shard(self.world, lease.shard_id)
            held = now.state == "leased" and now.fence == lease.fence
            if held:
                act()  # type: ignore[operator]
            else:
                with pytest.raises(LeaseLost):
                    act()  # type: ignore[operator]
            return held

        @invariant()
        def promises(self) -> None:
            with database.transaction() as session:
                job = jobs.get(session, self.job_row.id)
                now = jobs.progress(session, job)
                all_shards = jobs.shards_of(session, job.id)
                owed = set(session.scalars(select(Outbox.key)))
                made_ordinals, failed = (
                    set(session.scalars(select(table.ordinal).where(table.job_id == job.id)))
                    for table in (Sample, Failure)
                )
            assert made_ordinals.isdisjoint(failed)
            assert made_ordinals | failed <= set(range(job.count))
            assert now.done == len(made_ordinals)
            for part in all_shards:
                assert (part.state == "dead") == (part.crashes >= ATTEMPTS)
                waits = part.state == "pending" and job.state in ("pending", "running")
                assert not waits or part.id in owed
            if job.state == "succeeded":
                assert made_ordinals == set(range(job.count))
            if job.state in ("succeeded", "partial", "failed"):
                assert now.done + now.failed == now.planned
                assert job.ended_at is not None

        def teardown(self) -> None:
            """From wherever it was left, every job comes to an end."""
            if not hasattr(self, "job_row"):
                return
            if self.world.job(self.job_row).state == "paused":
                with database.transaction() as session:
                    jobs.resume(session, self.job_row.id)
            for lease in self.leases:
                self.world.expire(lease)
            reap(database)
            for shard_id in self.shard_ids:
                with database.transaction() as session:
                    lease = shards.claim(session, shard_id, "last", 60)
                    if lease:
                        self.world.begin(session, lease)
                if lease:
                    with database.transaction() as session:
                        missing = shards.missing(session, lease)
                    self.world.store(lease, [made(i) for i in missing])
                    self.world.finish(lease)
            assert self.world.job(self.job_row).state in jobs.ENDED
            self.promises()

    return ShardMachine


def test_shards_keep_their_promises_whatever_happens(database: Database) -> None:
    machine = shard_machine(database).TestCase
    machine.settings = settings(
        max_examples=15,
        stateful_step_count=20,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    machine("runTest").runTest()


def test_two_workers_may_not_share_a_fence(world: World) -> None:
    shard_id = world.shards_of(world.submit(1, 1))[0]
    fences = []
    for _ in range(3):
        lease = world.lease(shard_id)
        fences.append(lease.fence)
        with world.database.transaction() as session:
            shards.hand_back(session, lease)
    assert fences == [1, 2, 3]
    with world.database.transaction() as session:
        assert outbox.version(session, outbox.RUN_SHARD, shard_id) is not None
        assert shards.claim(session, new_id(), "w", 60) is None
