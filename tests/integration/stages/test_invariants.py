"""Each invariant finds the row that was broken on purpose, and nothing where all is well."""

import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from factory import invariants, jobs, pushes, requests, reviews, shards
from factory.db import Database
from factory.invariants import Task, Violation
from factory.reviews import Verdict
from factory.samples import Failed

from .world import World, add_real, made, world_in

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NAMES = {"A": "job", "B": "sample"}


@pytest.fixture(scope="module")
def database(postgres_url: str) -> Iterator[Database]:
    database = Database(postgres_url)
    yield database
    database.close()


@pytest.fixture(scope="module")
def world(database: Database) -> World:
    """Every kind of row: jobs at work, at their ends and dead, pushes, reviews, requests."""
    world = world_in(database)
    add_real(world, ["one real", "two real"])
    reviewed = world.generated(["a b", "c d", "e f", "g h", "   "], push=True)
    with database.transaction() as session:
        tasks = {sample.id: number for number, sample in enumerate(reviewed[:4], 1)}
        pushes.mark_pushed(session, 5, tasks)
        reviews.apply(session, reviewed[0].id, verdict(1, "accept"))
        reviews.apply(session, reviewed[1].id, verdict(2, "reject"))
        reviews.apply(session, reviewed[2].id, verdict(3, "fix", "E f."))
        requests.create(session, "replay", {"sample": str(reviewed[0].id)})
        reviews.record_event(session, {"action": "ANNOTATION_CREATED", "project": {"id": 5}})
    _partial(world)
    started = world.submit(8)
    world.store(world.lease(world.shards_of(started)[0]), [made(0), made(1)])
    with database.transaction() as session:
        jobs.pause(session, world.submit(3).id)
        jobs.cancel(session, world.submit(3).id)
    return world


def _partial(world: World) -> None:
    """A job of which one shard died half-made and another has a failure."""
    job = world.submit(8)
    first, second = world.shards_of(job)
    lease = world.lease(first)
    world.store(lease, [made(0)])
    with world.database.transaction() as session:
        shards.crash(session, lease, "it burnt", attempts=1)
    lease = world.lease(second)
    world.store(lease, [made(4), made(5), made(6), Failed(7, "not a number")])
    world.finish(lease)


def verdict(number: int, said: str, rewrite: str | None = None) -> Verdict:
    return Verdict(number, number, said, (), rewrite, None, "A Reviewer", 1.0, NOW, NOW)


def broken(world: World, *statements: str) -> list[Violation]:
    """What is found after these statements, which are undone."""
    with Session(world.database.engine) as session:
        for statement in statements:
            session.execute(text(statement))
        session.flush()
        found = invariants.violations(session)
        session.rollback()
    return found


def row(world: World, query: str) -> str:
    with world.database.transaction() as session:
        return str(session.scalar(text(query)))


def test_a_factory_at_work_breaks_none(world: World) -> None:
    with world.database.snapshot() as session:
        assert invariants.violations(session) == []


A_SAMPLE = "SELECT id FROM samples WHERE origin = 'synthetic' AND ordinal = 1 ORDER BY id LIMIT 1"
OF_TASK = "SELECT sample_id FROM pushes WHERE task_id = {}"
DONE = "SELECT id FROM jobs WHERE state = 'succeeded'"
RUNNING = "SELECT id FROM jobs WHERE state = 'running'"
UNKEPT = "ALTER TABLE samples DISABLE TRIGGER keep_samples"
NO_KEY = "ALTER TABLE samples DROP CONSTRAINT uq_samples_job_id_ordinal"
FREE = "UPDATE samples SET job_id = {0}, ordinal = {1} WHERE id = ({2})"
FORGET = "DELETE FROM outbox WHERE task = 'workers.{}'"

BREAKS = {
    "a job with a shard too few": (
        "A",
        f"job {{{DONE}}}",
        [f"UPDATE jobs SET count = 6 WHERE id = ({DONE})"],
    ),
    "a job whose shards overlap": (
        "A",
        f"job {{{RUNNING}}}",
        [f"UPDATE shards SET start = 3 WHERE index = 1 AND job_id = ({RUNNING})"],
    ),
    "an ordinal of another shard": (
        "B",
        f"sample {{{A_SAMPLE}}}",
        [f"UPDATE samples SET ordinal = 77 WHERE id = ({A_SAMPLE})"],
    ),
    "an ordinal that is stored twice": (
        "B",
        f"job {{{DONE}}}",
        [NO_KEY, f"UPDATE samples SET ordinal = 0 WHERE id = ({A_SAMPLE})"],
    ),
    "an ordinal that was made and failed": (
        "B",
        f"job {{{DONE}}}",
        [
            "INSERT INTO failures (job_id, ordinal, shard_id, error) "
            f"SELECT job_id, ordinal, shard_id, 'x' FROM samples WHERE id = ({A_SAMPLE})"
        ],
    ),
    "a done shard that lacks one": (
        "B",
        "shard {SELECT id FROM shards WHERE state = 'done' AND start = 4}",
        ["DELETE FROM failures"],
    ),
    "a job that did not succeed": (
        "B",
        "job {SELECT id FROM jobs WHERE state = 'partial'}",
        ["UPDATE jobs SET state = 'succeeded' WHERE state = 'partial'"],
    ),
    "an ended job with work left": (
        "C",
        f"job {{{RUNNING}}}",
        ["UPDATE jobs SET state = 'partial', ended_at = now() WHERE state = 'running'"],
    ),
    "a job that nobody ends": (
        "C",
        f"job {{{DONE}}}",
        ["UPDATE jobs SET state = 'running', ended_at = NULL WHERE state = 'succeeded'"],
    ),
    "an end without a time": (
        "C",
        f"job {{{DONE}}}",
        ["UPDATE jobs SET ended_at = NULL WHERE state = 'succeeded'"],
    ),
    "a shard that no worker will hear of": (
        "C",
        f"shard {{SELECT id FROM shards WHERE state = 'pending' AND job_id = ({RUNNING})}}",
        [FORGET.format("gpu.run_shard")],
    ),
    "a lease that nobody reaps": (
        "C",
        "shard {SELECT id FROM shards WHERE state = 'leased'}",
        ["UPDATE shards SET lease_until = now() - interval '2 min' WHERE state = 'leased'"],
    ),
    "a request that no worker will hear of": (
        "C",
        "request {SELECT id FROM requests}",
        [FORGET.format("gpu.serve")],
    ),
    "an event that no worker will hear of": (
        "C",
        "webhook event {SELECT id FROM webhook_events}",
        [FORGET.format("cpu.handle_event")],
    ),
    "a push that no worker will do": (
        "C",
        f"sample {{{OF_TASK.format(4)}}}",
        [
            FORGET.format("cpu.push"),
            "UPDATE samples SET state = 'generated' WHERE id = "
            "(SELECT sample_id FROM pushes WHERE task_id = 4)",
            "UPDATE pushes SET task_id = NULL WHERE task_id = 4",
        ],
    ),
    "a sample that nobody embeds": (
        "C",
        f"sample {{{A_SAMPLE}}}",
        [FORGET.format("cpu.embed")],
    ),
    "a wrong count of tokens": (
        "D",
        f"sample {{{A_SAMPLE}}}",
        [f"UPDATE samples SET token_count = 9 WHERE id = ({A_SAMPLE})"],
    ),
    "a changed text": (
        "D",
        f"sample {{{A_SAMPLE}}}",
        [UNKEPT, f"UPDATE samples SET text = 'changed' WHERE id = ({A_SAMPLE})"],
    ),
    "a wrong count of what was not steered": (
        "D",
        f"job {{{DONE}}}",
        ["UPDATE jobs SET result = '{\"without_negatives\": 2}' WHERE state = 'succeeded'"],
    ),
    "samples that were not counted": (
        "D",
        "dataset {SELECT dataset_id FROM samples LIMIT 1}",
        ["UPDATE tallies SET number = number + 1 WHERE subject = 'sample'"],
    ),
    "reviews that were not counted": (
        "D",
        "dataset {SELECT dataset_id FROM pushes LIMIT 1}",
        ["DELETE FROM tallies WHERE subject = 'review'"],
    ),
    "pushes that were not counted": (
        "D",
        "dataset {SELECT dataset_id FROM pushes LIMIT 1}",
        ["DELETE FROM tallies WHERE subject = 'push'"],
    ),
    "a task of two samples": (
        "E",
        "task 1",
        ["UPDATE pushes SET task_id = 1 WHERE task_id = 2"],
    ),
    "a pushed sample that is not in review": (
        "E",
        f"sample {{{OF_TASK.format(4)}}}",
        [f"UPDATE samples SET state = 'generated' WHERE id = ({OF_TASK.format(4)})"],
    ),
    "a verdict that has no effect": (
        "F",
        f"sample {{{OF_TASK.format(2)}}}",
        [f"UPDATE samples SET state = 'accepted' WHERE id = ({OF_TASK.format(2)})"],
    ),
    "a correction that is lost": (
        "F",
        f"sample {{{OF_TASK.format(3)}}}",
        ["UPDATE samples SET state = 'filtered' WHERE origin = 'corrected'"],
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_what_is_broken_is_named(world: World, name: str) -> None:
    letter, named, statements = BREAKS[name]
    kind, _, query = named.partition(" {") if "{" in named else (named, "", "")
    wanted = f"{kind} {row(world, query.removesuffix('}'))}" if query else kind
    found = broken(world, *statements)
    assert (letter, wanted) in {(each.invariant, each.row) for each in found}


def test_every_check_has_found_something(world: World) -> None:
    """No check is one that cannot fail."""
    idle = set(invariants.CHECKS)
    for _, _, statements in BREAKS.values():
        with Session(world.database.engine) as session:
            for statement in statements:
                session.execute(text(statement))
            idle -= {check for check in idle if invariants.find(session, check)}
            session.rollback()
    assert not idle


@pytest.fixture(scope="module")
def there(world: World) -> dict[int, Task]:
    """What Label Studio holds when all is well."""
    with world.database.transaction() as session:
        known = reviews.known(session, 5)
    said = {1: "accept", 2: "reject", 3: "fix"}
    return {
        id_: Task(id_, str(each.sample_id), ((id_, said[id_], NOW),) if id_ in said else ())
        for id_, each in known.items()
    }


def beside(world: World, tasks: Sequence[Task]) -> set[tuple[str, str]]:
    with world.database.transaction() as session:
        found = invariants.task_violations(session, 5, tasks)
    return {(each.invariant, each.row) for each in found}


def test_label_studio_holds_what_we_noted(world: World, there: dict[int, Task]) -> None:
    assert beside(world, list(there.values())) == set()


def test_a_task_that_is_doubled_lost_or_strange_is_named(
    world: World, there: dict[int, Task]
) -> None:
    of = {id_: f"sample {task.sample_id}" for id_, task in there.items()}
    again = Task(9, there[4].sample_id)
    assert beside(world, [*there.values(), again]) == {("E", of[4])}
    assert beside(world, [there[1], there[2], there[3]]) == {("E", of[4])}
    assert beside(world, [*there.values(), Task(9, str(uuid.uuid4()))]) == {("E", "task 9")}
    moved = Task(9, there[4].sample_id)
    assert beside(world, [there[1], there[2], there[3], moved]) == {("E", of[4])}


def test_a_verdict_that_we_do_not_have_is_named(world: World, there: dict[int, Task]) -> None:
    later = NOW + timedelta(seconds=1)
    for said in ((), ((2, "accept", NOW),), ((2, "reject", later),)):
        tasks = {**there, 2: Task(2, there[2].sample_id, said)}
        assert beside(world, list(tasks.values())) == {("F", f"sample {there[2].sample_id}")}
