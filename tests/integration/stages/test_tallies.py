"""Counts without reading the rows: exact whatever is written, by however many at a time."""

import threading
from collections import Counter
from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, text

from factory import datasets, tallies
from factory.db import Database
from factory.tables import Sample, Tally

from .world import World, add_real

STATES = ("generated", "filtered", "in_review", "accepted", "rejected", "fixed")


def recount(world: World) -> Counter[str]:
    with world.database.transaction() as session:
        rows = select(Sample.state, func.count()).where(Sample.dataset_id == world.dataset.id)
        return Counter(dict(session.execute(rows.group_by(Sample.state)).tuples().all()))


def counted(world: World) -> Counter[str]:
    with world.database.transaction() as session:
        rows = tallies.read(session, "sample", [world.dataset.id])
        return Counter(tallies.by(rows, "state"))


@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    moves=st.lists(
        st.one_of(
            st.tuples(st.integers(0, 3), st.sampled_from(STATES)),
            st.just("more"),
            st.just("add up"),
        ),
        max_size=12,
    )
)
def test_whatever_happens_to_samples_their_counts_are_right(
    new_world: Callable[[], World], moves: list[tuple[int, str] | str]
) -> None:
    world = new_world()
    made = world.generated(["a", "b", "c", "d"])
    for move in moves:
        if move == "more":
            made += world.generated(["e", "f"])
        elif move == "add up":
            with world.database.transaction() as session:
                tallies.compact(session)
        else:
            world.set(made[int(move[0])], state=move[1])
        assert counted(world) == recount(world)


def test_what_is_undone_does_not_count(world: World) -> None:
    with world.database.transaction() as session:
        datasets.import_lines(session, world.dataset, [b'{"text": "x"}'])
        session.rollback()
    assert not counted(world)


def test_many_may_write_and_add_up_at_the_same_time(
    new_world: Callable[[], World], database: Database
) -> None:
    worlds = [new_world() for _ in range(4)]

    def write(world: World) -> None:
        for n in range(10):
            world.generated([f"{n} a", f"{n} b"])

    def add_up() -> None:
        for _ in range(30):
            with database.transaction() as session:
                tallies.compact(session)

    threads = [threading.Thread(target=write, args=(world,)) for world in worlds]
    threads += [threading.Thread(target=add_up) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [counted(world) for world in worlds] == [Counter(generated=20)] * 4


def test_adding_up_leaves_a_row_for_each_kind(world: World) -> None:
    add_real(world, ["a", "b"])
    add_real(world, ["c"])
    world.generated(["d"])
    with world.database.transaction() as session:
        tallies.compact(session)
        rows = select(Tally.facts, Tally.number).where(Tally.dataset_id == world.dataset.id)
        left = {(facts["origin"], number) for facts, number in session.execute(rows)}
    assert left == {("real", 3), ("synthetic", 1)}


def test_a_vector_changes_no_count(world: World) -> None:
    sample = add_real(world, ["a"])[0]
    with world.database.transaction() as session:
        before = session.scalar(select(func.max(Tally.id)))
        session.execute(
            text("UPDATE samples SET embedding = array_fill(0.1::real, '{384}')::vector "
                 "WHERE id = :id"),
            {"id": sample.id},
        )  # fmt: skip
        assert session.scalar(select(func.max(Tally.id))) == before
