"""One circuit for every process: the truth is its row."""

import threading
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from factory import circuits, degraded, outbox
from factory.circuits import LABEL_STUDIO, THRESHOLD, Turn
from factory.db import Database
from factory.errors import HeldBack, Invalid, NotFound, Unavailable
from factory.ids import new_id
from factory.settings import Settings
from factory.tables import Circuit, Outbox
from workers.labelstudio import breaker

SETTINGS = Settings(label_studio_url="http://x", label_studio_retry_seconds=30)
PATIENT = Settings(label_studio_url="http://x", label_studio_retry_seconds=3600)


@pytest.fixture(autouse=True)
def closed(database: Database) -> None:
    with database.transaction() as session:
        session.query(Circuit).delete()
        session.query(Outbox).delete()


def fail(
    database: Database,
    times: int = THRESHOLD,
    retry_after: float | None = None,
    settings: Settings = SETTINGS,
) -> None:
    for _ in range(times):
        with pytest.raises(Unavailable), breaker.guard(database, settings)():
            raise Unavailable("no answer", retry_after=retry_after)


def end_pause(database: Database) -> None:
    with database.transaction() as session:
        session.execute(update(Circuit).values(retry_at=func.clock_timestamp()))


def is_closed(database: Database) -> bool:
    with database.transaction() as session:
        return circuits.find(session, LABEL_STUDIO) is None


def test_failures_stop_the_calls_of_every_process(database: Database, postgres_url: str) -> None:
    fail(database, settings=PATIENT)
    other = Database(postgres_url)
    with pytest.raises(HeldBack, match="no answer"), breaker.guard(other, PATIENT)():
        raise AssertionError("it was called")
    other.close()


def test_who_is_held_back_is_told_so_the_first_time(database: Database) -> None:
    fail(database, settings=PATIENT)
    asked = []

    def ask(session: Session) -> Turn:
        asked.append(1)
        return circuits.ask(session, LABEL_STUDIO)

    with pytest.raises(HeldBack):
        database.retrying(ask)
    assert len(asked) == 1


def test_what_it_asked_for_is_kept(database: Database) -> None:
    fail(database, times=1, retry_after=300)
    with database.transaction() as session:
        assert 290 < circuits.seconds_left(session, LABEL_STUDIO, 1) <= 300


def test_one_of_many_probes_and_its_success_lets_all_go(database: Database) -> None:
    fail(database)
    end_pause(database)
    met, turns = threading.Barrier(8), []

    def ask() -> None:
        met.wait()
        try:
            turns.append(database.retrying(lambda s: circuits.ask(s, LABEL_STUDIO)))
        except HeldBack:
            turns.append(None)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(turns, key=str) == sorted([Turn(is_probe=True), *[None] * 7], key=str)
    end_pause(database)
    with breaker.guard(database, SETTINGS)():
        pass
    assert is_closed(database)


@pytest.mark.parametrize("answer", [NotFound("no such project"), Invalid("a wrong form")])
def test_a_refusal_is_an_answer(database: Database, answer: Exception) -> None:
    fail(database)
    end_pause(database)
    with pytest.raises(type(answer)), breaker.guard(database, SETTINGS)():
        raise answer
    assert is_closed(database)


def test_what_was_postponed_is_due_when_it_answers_again(database: Database) -> None:
    waiting, other = new_id(), new_id()
    with database.transaction() as session:
        outbox.owe(session, outbox.PUSH, waiting)
        outbox.owe(session, outbox.EMBED, other)
        for task, key in ((outbox.PUSH, waiting), (outbox.EMBED, other)):
            outbox.postpone(session, task, key, 600)
    fail(database)
    end_pause(database)
    with breaker.guard(database, SETTINGS)():
        pass
    with database.transaction() as session:
        due = outbox.take_due(session, limit=10, retry_seconds=1)
        assert due == [outbox.WakeUp(outbox.PUSH, waiting)]
        left = select(Outbox.due_at - func.clock_timestamp()).where(Outbox.key == other)
        assert session.scalar(left) > timedelta(seconds=500)


def test_it_is_said_since_when_why_and_what_to_do(database: Database) -> None:
    with database.transaction() as session:
        assert degraded.label_studio(session, SETTINGS) is None
    fail(database)
    with database.transaction() as session:
        found = degraded.label_studio(session, SETTINGS)
        assert found is not None
        assert found.since is not None
        assert str(found).startswith(f"label_studio since {found.since:%FT%TZ}: no answer. Samples")
        assert "tried again at" in str(found)
        assert "0 samples wait" in str(found)
        unset = SETTINGS.model_copy(update={"label_studio_url": ""})
        assert degraded.label_studio(session, unset) is None
