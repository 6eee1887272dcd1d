"""What was fetched from Label Studio is settled: fetches may overtake each other, tasks and
projects may go."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from factory import invariants, outbox, pushes, reviews
from factory.reviews import Known, Verdict
from factory.tables import Dataset, Push, Sample

from .world import World

START = datetime(2026, 1, 1, tzinfo=UTC)
_ids = iter(range(1_000_000, 2_000_000))


def project(world: World) -> int:
    """A project of its own for each world."""
    return world.dataset.id.int % 2**31


def at(minute: int) -> datetime:
    return START + timedelta(minutes=minute)


def verdict(kind: str, minute: int, id_: int) -> Verdict:
    said: dict[str, Any] = {"reasons": (), "rewrite": None, "rating": None, "reviewer": "ann"}
    return Verdict(id_, 1, kind, lead_seconds=None, created_at=START, updated_at=at(minute), **said)


def pushed(world: World, *texts: str) -> list[Sample]:
    rows = world.generated(list(texts), push=True)
    with world.database.transaction() as session:
        session.get_one(Dataset, world.dataset.id).label_studio_project = project(world)
        pushes.mark_pushed(session, project(world), {row.id: next(_ids) for row in rows})
    return rows


def known(world: World, row: Sample) -> Known:
    with world.database.transaction() as session:
        found = reviews.known(session, project(world))
    return next(task for task in found.values() if task.sample_id == row.id)


def settle(world: World, mine: Known, said: list[Verdict], updated_at: datetime | None) -> bool:
    return world.database.retrying(lambda s: reviews.settle(s, mine, said, updated_at))


def state(world: World, row: Sample) -> str:
    with world.database.transaction() as session:
        return session.get_one(Sample, row.id).state


@settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_the_newest_fetch_that_was_settled_counts_whatever_the_order(
    new_world: Callable[[], World], data: st.DataObject
) -> None:
    """One task through its versions: no verdict, one, another, none again, and so on. Each fetch
    sees one version and is settled late, in any order, knowing any earlier time."""
    world = new_world()
    (row,) = pushed(world, "one")
    kinds = data.draw(st.lists(st.sampled_from(["accept", "reject", None]), min_size=1, max_size=6))
    ids = [next(_ids) for _ in range(2)]
    versions = [
        [verdict(kind, minute, data.draw(st.sampled_from(ids)))] if kind else []
        for minute, kind in enumerate(kinds)
    ]
    first = known(world, row)
    order = data.draw(st.lists(st.integers(0, len(versions) - 1), min_size=1, max_size=8))
    newest = -1
    for fetched in order:
        mine = data.draw(st.sampled_from([first, known(world, row)]))
        settle(world, mine, versions[fetched], at(fetched))
        newest = max(newest, fetched)
        said = kinds[newest]
        assert state(world, row) == {"accept": "accepted", "reject": "rejected"}.get(
            said or "", "in_review"
        )
        live = known(world, row).annotations
        assert live == {v.annotation_id: v.updated_at for v in versions[newest]}


def test_a_fetch_that_was_under_way_does_not_bring_a_deleted_task_back(world: World) -> None:
    (row,) = pushed(world, "one")
    mine = known(world, row)
    settle(world, mine, [], None)
    assert not settle(world, mine, [verdict("reject", 1, next(_ids))], at(1))
    assert state(world, row) == "in_review"


def test_a_task_that_was_thought_gone_and_is_there_counts_again(world: World) -> None:
    (row,) = pushed(world, "one")
    settle(world, known(world, row), [], None)
    assert settle(world, known(world, row), [verdict("reject", 1, next(_ids))], at(1))
    assert state(world, row) == "rejected"
    assert known(world, row).gone is None


def test_a_fetch_of_a_task_that_was_replaced_changes_nothing(world: World) -> None:
    (row,) = pushed(world, "one")
    mine = known(world, row)
    with world.database.transaction() as session:
        pushes.move_task(session, row.id, mine.task_id, next(_ids))
    assert not settle(world, mine, [verdict("reject", 1, next(_ids))], at(1))
    assert not settle(world, mine, [], None)
    assert known(world, row).gone is None


def test_without_its_project_unreviewed_samples_wait_again_and_reviews_stay(world: World) -> None:
    reviewed, unreviewed, gone = pushed(world, "one", "two", "three")
    said = verdict("reject", 1, next(_ids))
    settle(world, known(world, reviewed), [said], at(1))
    settle(world, known(world, gone), [], None)
    with world.database.transaction() as session:
        outbox.settle(session, outbox.PUSH, world.dataset.id)
        assert pushes.release(session, world.dataset.id, project(world)) == 1
        assert pushes.release(session, world.dataset.id, project(world)) == 0
    assert [state(world, row) for row in (reviewed, unreviewed, gone)] == [
        "rejected",
        "generated",
        "in_review",
    ]
    with world.database.transaction() as session:
        waiting = pushes.waiting(session, world.dataset.id, 9)
        assert [sample.id for _, sample in waiting] == [unreviewed.id]
        assert outbox.version(session, outbox.PUSH, world.dataset.id) is not None
        assert reviews.known(session, project(world)) == {}
        (kept,) = reviews.of_sample(session, reviewed.id)
        assert kept.annotation_id is None
        mine = {f"sample {row.id}" for row in (reviewed, unreviewed, gone)}
        assert [v for v in invariants.violations(session) if v.row in mine] == []


def test_another_label_studio_may_give_the_same_numbers(world: World) -> None:
    first, second = pushed(world, "one", "two")
    number = next(_ids)
    settle(world, known(world, first), [verdict("reject", 1, number)], at(1))
    with world.database.transaction() as session:
        task = session.get_one(Push, first.id).task_id
        assert task is not None
        pushes.release(session, world.dataset.id, project(world))
        session.get_one(Dataset, world.dataset.id).label_studio_project = project(world)
        pushes.mark_pushed(session, project(world), {second.id: task})
    settle(world, known(world, second), [verdict("accept", 2, number)], at(2))
    assert (state(world, first), state(world, second)) == ("rejected", "accepted")


@pytest.mark.parametrize("live", [True, False])
def test_what_we_count_is_what_label_studio_should(world: World, live: bool) -> None:
    one, _two, three = pushed(world, "one", "two", "three")
    with world.database.transaction() as session:
        before = reviews.counted(session, project(world))
    settle(world, known(world, one), [verdict("reject", 1, next(_ids))] if live else [], at(1))
    settle(world, known(world, three), [], None)
    with world.database.transaction() as session:
        tasks, found = reviews.counted(session, project(world))
    assert (tasks - before[0], found - before[1]) == (-1, int(live))
