"""Jobs: submitted once, held, resumed, cancelled, and ended when their shards have ended."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import event, select

from factory import jobs, shards
from factory.db import Database
from factory.errors import Conflict, NotFound
from factory.ids import new_id
from factory.samples import Failed
from factory.spec import job_spec
from factory.tables import Job, Outbox

from .world import World, made


def submit(world: World, key: str | None = None, **body: Any) -> tuple[Job, bool]:
    request = {"kind": "generate", "dataset": "x", "model": "m", "count": 3, "seed": 1, **body}
    with world.database.transaction() as session:
        spec = job_spec.validate_python(request)
        return jobs.submit(
            session, spec, world.dataset, world.model, request=request, idempotency_key=key
        )


def owed(database: Database, shard_ids: list[uuid.UUID]) -> set[uuid.UUID]:
    with database.transaction() as session:
        return set(session.scalars(select(Outbox.key).where(Outbox.key.in_(shard_ids))))


def test_a_job_is_stored_whole_with_its_shards_and_their_wake_ups(world: World) -> None:
    job = world.submit(10, 4)
    with world.database.transaction() as session:
        parts = [(s.index, s.start, s.stop) for s in jobs.shards_of(session, job.id)]
    assert parts == [(0, 0, 4), (1, 4, 8), (2, 8, 10)]
    assert owed(world.database, world.shards_of(job)) == set(world.shards_of(job))
    assert job.state == "pending"
    assert job.spec["prompt"] == world.dataset.prompt
    assert job.spec["guidance"]["nucleus"] == 0.95


def test_the_same_key_and_body_is_the_same_job(world: World) -> None:
    key = str(new_id())
    first, new = submit(world, key)
    again, anew = submit(world, key)
    assert (new, anew, again.id) == (True, False, first.id)
    with pytest.raises(Conflict, match="another body"):
        submit(world, key, count=4)
    with world.database.transaction() as session:
        found = jobs.submitted(session, {"other": 1}, str(new_id()))
    assert found is None


def test_without_a_key_each_submission_is_a_job(world: World) -> None:
    assert submit(world)[0].id != submit(world)[0].id


def test_one_job_of_many_submissions_at_once(world: World) -> None:
    key, together = str(new_id()), threading.Barrier(8)

    def send(_: int) -> tuple[Job, bool]:
        together.wait()
        return submit(world, key)

    with ThreadPoolExecutor(8) as pool:
        sent = list(pool.map(send, range(8)))
    assert len({job.id for job, _ in sent}) == 1
    assert sum(new for _, new in sent) == 1


def test_an_unknown_job_is_not_found(world: World) -> None:
    with pytest.raises(NotFound), world.database.transaction() as session:
        jobs.cancel(session, new_id())


def test_a_job_runs_from_its_first_claim_and_succeeds_with_its_last_shard(world: World) -> None:
    job = world.submit(3, 2)
    first, second = (world.lease(shard) for shard in world.shards_of(job))
    running = world.job(job)
    assert running.state == "running"
    assert running.started_at is not None
    world.store(first, [made(0), made(1)])
    assert world.finish(first).state == "running"
    world.store(second, [made(2)])
    ended = world.finish(second)
    assert (ended.state, ended.error) == ("succeeded", None)
    assert ended.ended_at is not None


def test_progress_is_counted_from_stored_rows(world: World) -> None:
    job = world.submit(6, 6)
    lease = world.lease(world.shards_of(job)[0])
    world.store(lease, [made(0), made(1, " "), Failed(2, "NaN")])
    with world.database.transaction() as session:
        now = jobs.progress(session, jobs.get(session, job.id))
    assert (now.planned, now.done, now.failed, now.filtered, now.tokens) == (6, 2, 1, 1, 6)
    assert now.tokens_per_second is not None
    assert now.tokens_per_second > 0
    assert now.eta_seconds is not None
    assert now.updated_at is not None


def test_a_job_with_failures_is_partial_and_one_without_samples_has_failed(world: World) -> None:
    some = world.submit(2, 2)
    lease = world.lease(world.shards_of(some)[0])
    world.store(lease, [made(0), Failed(1, "NaN")])
    ended = world.finish(lease)
    assert (ended.state, ended.error) == ("partial", "1 samples could not be made")
    none = world.submit(1, 1)
    lease = world.lease(world.shards_of(none)[0])
    world.store(lease, [Failed(0, "NaN")])
    assert world.finish(lease).state == "failed"


def test_what_a_dead_shard_leaves_unmade_has_failed(world: World) -> None:
    job = world.submit(8, 4)
    first, second = (world.lease(shard) for shard in world.shards_of(job))
    world.store(first, [made(i) for i in range(4)])
    world.finish(first)
    world.store(second, [made(4), Failed(5, "NaN")])
    with world.database.transaction() as session:
        shards.crash(session, second, "no memory", attempts=1)
        ended = jobs.finish_if_done(session, job.id)
        now = jobs.progress(session, ended)
    assert ended.state == "partial"
    assert "1 shards were given up: no memory" in (ended.error or "")
    assert (now.done, now.failed, now.planned) == (5, 3, 8)


def test_two_last_shards_that_end_at_once_end_the_job(world: World) -> None:
    for _ in range(5):
        job = world.submit(2, 1)
        leases = [world.lease(shard) for shard in world.shards_of(job)]
        for i, lease in enumerate(leases):
            world.store(lease, [made(i)])
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(world.finish, leases))
        assert world.job(job).state == "succeeded"


def test_a_cancelled_job_has_ended(world: World) -> None:
    job = world.submit(2, 1)
    with world.database.transaction() as session:
        cancelled = jobs.cancel(session, job.id)
    assert (cancelled.state, cancelled.ended_at is not None) == ("cancelled", True)
    for change in (jobs.cancel, jobs.pause, jobs.resume):
        with pytest.raises(Conflict), world.database.transaction() as session:
            change(session, job.id)
    with world.database.transaction() as session:
        assert shards.claim(session, world.shards_of(job)[0], "w", 60) is None
    assert world.job(job).state == "cancelled"


def test_a_paused_job_is_not_worked_on_until_it_is_resumed(world: World) -> None:
    job = world.submit(2, 1)
    shard_ids = world.shards_of(job)
    with world.database.transaction() as session:
        jobs.pause(session, job.id)
    for shard_id in shard_ids:
        with world.database.transaction() as session:
            assert shards.claim(session, shard_id, "w", 60) is None
    assert owed(world.database, shard_ids) == set()
    with world.database.transaction() as session:
        assert jobs.resume(session, job.id).state == "pending"
    assert owed(world.database, shard_ids) == set(shard_ids)
    world.lease(shard_ids[0])
    with world.database.transaction() as session:
        jobs.pause(session, job.id)
        assert jobs.resume(session, job.id).state == "running"
        with pytest.raises(Conflict, match="not paused"):
            jobs.resume(session, job.id)


def test_a_job_resumed_in_the_middle_of_a_claim_is_owed_its_wake_up(world: World) -> None:
    """The claim looks at the shard before the job is resumed and settles after it."""
    job = world.submit(1, 1)
    shard_id = world.shards_of(job)[0]
    with world.database.transaction() as session:
        jobs.pause(session, job.id)

    def resume(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("UPDATE shards"):
            with world.database.transaction() as session:
                jobs.resume(session, job.id)

    with world.database.transaction() as session:
        event.listen(session.connection(), "after_cursor_execute", resume)
        assert shards.claim(session, shard_id, "w", 60) is None
    assert world.job(job).state == "pending"
    assert owed(world.database, [shard_id]) == {shard_id}


def test_pausing_resuming_and_claiming_at_once_never_strands_a_shard(world: World) -> None:
    """Whatever the interleaving, a shard that waits in a live job is owed a wake-up."""
    for _ in range(15):
        job = world.submit(1, 1)
        shard_id = world.shards_of(job)[0]
        with world.database.transaction() as session:
            jobs.pause(session, job.id)
        together = threading.Barrier(2)

        def claim(shard_id: uuid.UUID = shard_id, gate: threading.Barrier = together) -> bool:
            gate.wait()
            with world.database.transaction() as session:
                return shards.claim(session, shard_id, "w", 60) is not None

        def resume(job: Job = job, gate: threading.Barrier = together) -> None:
            gate.wait()
            with world.database.transaction() as session:
                jobs.resume(session, job.id)

        with ThreadPoolExecutor(2) as pool:
            claimed, resumed = pool.submit(claim), pool.submit(resume)
            resumed.result()
            assert claimed.result() or owed(world.database, [shard_id])


def test_who_locks_a_job_sees_what_another_did_to_it(world: World) -> None:
    job = world.submit(1, 1)
    with world.database.transaction() as session:
        assert jobs.get(session, job.id).state == "pending"
        with world.database.transaction() as other:
            jobs.cancel(other, job.id)
        with pytest.raises(Conflict, match="cancelled"):
            jobs.pause(session, job.id)


def test_failing_ends_a_live_job_only(world: World) -> None:
    job = world.submit(1, 1)
    with world.database.transaction() as session:
        jobs.fail(session, job.id, "no model")
    ended = world.job(job)
    assert (ended.state, ended.error) == ("failed", "no model")
    with world.database.transaction() as session:
        jobs.fail(session, job.id, "another reason")
    assert world.job(job).error == "no model"


def test_jobs_are_listed_newest_first(world: World) -> None:
    made_jobs = [world.submit(1, 1) for _ in range(3)]
    with world.database.transaction() as session:
        jobs.cancel(session, made_jobs[1].id)
        newest = jobs.list_page(session, dataset_id=world.dataset.id, limit=2)
        rest = jobs.list_page(session, dataset_id=world.dataset.id, before=newest[-1].id)
        cancelled = jobs.list_page(session, dataset_id=world.dataset.id, state="cancelled")
    ids = [job.id for job in made_jobs]
    assert [job.id for job in (*newest, *rest)] == ids[::-1]
    assert [job.id for job in cancelled] == [ids[1]]


def test_pushing_a_job_owes_each_sample_once(world: World) -> None:
    world.generated(["one", "two"])
    with world.database.transaction() as session:
        job = jobs.list_page(session, dataset_id=world.dataset.id)[0]
        assert jobs.push(session, job.id) == 2
        assert jobs.push(session, job.id) == 0


def test_a_train_job_is_whole_when_its_shard_is(world: World) -> None:
    """Steps are noted now and then; the last note may be older than the last step."""
    body = {"kind": "train", "dataset": "x", "model": "new", "base": "demo", "steps": 40}
    with world.database.transaction() as session:
        job, _ = jobs.submit(
            session, job_spec.validate_python(body), world.dataset, None, request=body
        )
        assert jobs.is_training(session, "new")
    lease = world.lease(world.shards_of(job)[0])
    with world.database.transaction() as session:
        shards.note_progress(session, lease, {"done": 30, "planned": 1040})
        running = jobs.progress(session, jobs.get(session, job.id))
    assert (running.done, running.planned) == (30, 1040)
    ended = world.finish(lease)
    with world.database.transaction() as session:
        now = jobs.progress(session, ended)
        assert not jobs.is_training(session, "new")
    assert ended.state == "succeeded"
    assert (now.done, now.planned, now.failed) == (1040, 1040, 0)
