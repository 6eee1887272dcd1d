"""Wake-ups: nothing owed is lost, nothing is taken by two, nothing is settled unseen."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from sqlalchemy import delete, select

from factory import outbox
from factory.db import Database
from factory.ids import new_id
from factory.tables import Outbox

TASK = outbox.EMBED


@pytest.fixture(autouse=True)
def _nothing_owed(database: Database) -> None:
    with database.transaction() as session:
        session.execute(delete(Outbox))


def owe(database: Database, *keys: uuid.UUID) -> None:
    with database.transaction() as session:
        outbox.owe(session, TASK, *keys)


def owed(database: Database) -> set[uuid.UUID]:
    with database.transaction() as session:
        return set(session.scalars(select(Outbox.key)))


def take(database: Database, *, limit: int = 100, retry: float = 60) -> list[uuid.UUID]:
    with database.transaction() as session:
        return [w.key for w in outbox.take_due(session, limit=limit, retry_seconds=retry)]


def make_due(database: Database) -> None:
    with database.transaction() as session:
        for row in session.scalars(select(Outbox)):
            row.due_at = row.created_at


def wait_seconds(database: Database) -> float:
    """How long until the one wake-up there is sent again."""
    with database.transaction() as session:
        row = session.scalars(select(Outbox)).one()
        now = session.scalar(select(outbox.func.clock_timestamp()))
        return float((row.due_at - now).total_seconds())


def test_what_is_owed_is_taken_oldest_first_and_not_again_at_once(database: Database) -> None:
    keys = [new_id() for _ in range(3)]
    for key in keys:
        owe(database, key)
    assert take(database, limit=2) == keys[:2]
    assert take(database) == keys[2:]
    assert take(database) == []
    assert owed(database) == set(keys)


def test_a_stale_wake_up_is_sent_again_less_and_less_often(database: Database) -> None:
    key = new_id()
    owe(database, key)
    waits = []
    for _ in range(6):
        assert take(database, retry=10) == [key]
        waits.append(round(wait_seconds(database), -1))
        make_due(database)
    assert waits == [10, 20, 40, 80, 80, 80]
    owe(database, key)
    assert take(database, retry=10) == [key]
    assert round(wait_seconds(database), -1) == 10


def test_a_thing_undone_owes_nothing(database: Database) -> None:
    with database.transaction() as session:
        outbox.owe(session, TASK, new_id())
        session.rollback()
    assert owed(database) == set()


def test_a_key_is_owed_once_however_often_it_is_named(database: Database) -> None:
    key = new_id()
    owe(database, key, key)
    owe(database, key)
    assert take(database) == [key]


def test_as_many_as_a_large_job_has_shards(database: Database) -> None:
    owe(database, *(new_id() for _ in range(40_000)))
    assert len(owed(database)) == 40_000


def test_work_owed_while_a_worker_is_busy_is_not_settled_by_it(database: Database) -> None:
    key = new_id()
    owe(database, key)
    with database.transaction() as session:
        seen = outbox.version(session, TASK, key)
    owe(database, key)
    with database.transaction() as session:
        outbox.settle(session, TASK, key, seen)
    assert owed(database) == {key}
    with database.transaction() as session:
        outbox.settle(session, TASK, key, outbox.version(session, TASK, key))
    assert owed(database) == set()


def test_a_repeated_message_does_not_settle_what_came_after_it(database: Database) -> None:
    key = new_id()
    with database.transaction() as session:
        nothing = outbox.version(session, TASK, key)
    assert nothing is None
    owe(database, key)
    with database.transaction() as session:
        outbox.settle(session, TASK, key, nothing)
    assert owed(database) == {key}


def test_a_slow_worker_does_not_settle_what_was_owed_after_another_had_settled(
    database: Database,
) -> None:
    key = new_id()
    owe(database, key)
    with database.transaction() as session:
        slow = outbox.version(session, TASK, key)
        outbox.settle(session, TASK, key, slow)
    owe(database, key)
    with database.transaction() as session:
        outbox.settle(session, TASK, key, slow)
    assert owed(database) == {key}


def test_dispatchers_at_once_take_each_wake_up_once(database: Database) -> None:
    keys = [new_id() for _ in range(200)]
    owe(database, *keys)
    together = threading.Barrier(4)

    def dispatch(_: int) -> list[uuid.UUID]:
        together.wait()
        taken: list[uuid.UUID] = []
        while batch := take(database, limit=7):
            taken += batch
        return taken

    with ThreadPoolExecutor(4) as pool:
        taken = [key for part in pool.map(dispatch, range(4)) for key in part]
    assert sorted(taken) == sorted(keys)


def test_those_who_owe_the_same_in_another_order_do_not_block_each_other(
    database: Database,
) -> None:
    keys = [new_id() for _ in range(50)]
    together = threading.Barrier(4)

    def owe_often(turn: int) -> None:
        together.wait()
        for _ in range(10):
            owe(database, *(keys if turn % 2 else reversed(keys)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(owe_often, range(4)))
    assert owed(database) == set(keys)


def test_every_unit_of_work_is_seen_after_it_was_owed(database: Database) -> None:
    """Producers add work and owe it; consumers read the version, take all the work that they
    see, and settle. At the end no work may be left that nobody owes."""
    key, waiting, lock = new_id(), [0], threading.Lock()
    produced = threading.Event()

    def produce(_: int) -> None:
        for _ in range(40):
            with lock:
                waiting[0] += 1
            owe(database, key)

    def consume(_: int) -> None:
        while not (produced.is_set() and not owed(database)):
            with database.transaction() as session:
                seen = outbox.version(session, TASK, key)
            with lock:
                waiting[0] = 0
            with database.transaction() as session:
                outbox.settle(session, TASK, key, seen)

    with ThreadPoolExecutor(4) as pool:
        consumers = [pool.submit(consume, i) for i in range(2)]
        list(pool.map(produce, range(2)))
        produced.set()
        for consumer in consumers:
            consumer.result()
    assert waiting[0] == 0


def test_dispatchers_are_told_at_once(database: Database, postgres_url: str) -> None:
    url = postgres_url.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"LISTEN {outbox.CHANNEL}")
        owe(database, new_id())
        heard = [n.channel for n in connection.notifies(timeout=5, stop_after=1)]
    assert heard == [outbox.CHANNEL]


def test_unanswered_counts_what_was_sent_and_not_settled(database: Database) -> None:
    keys = [new_id() for _ in range(3)]
    owe(database, *keys)
    with database.transaction() as session:
        assert outbox.unanswered(session, [TASK]) == (0, 0.0)
    take(database, limit=2)
    with database.transaction() as session:
        number, age = outbox.unanswered(session, [TASK])
    assert number == 2
    assert age >= 0
