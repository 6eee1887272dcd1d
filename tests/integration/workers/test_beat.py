"""The beat on a real database and broker: what is owed is sent, also after either was away."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import delete, select, text

from factory import dispatch, outbox, requests, reviews
from factory.beat import Beat
from factory.db import Database
from factory.errors import LeaseLost
from factory.ids import new_id
from factory.local import home
from factory.local.redis import Server
from factory.settings import Settings
from factory.shards import claim, renew
from factory.tables import Dataset, Outbox, Request, Shard, WebhookEvent

from .factory_floor import Floor

CUT = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
    "WHERE datname = current_database() AND pid <> pg_backend_pid()"
)


@pytest.fixture(autouse=True)
def _nothing_owed(database: Database) -> None:
    with database.transaction() as session:
        session.execute(delete(Outbox))


@contextmanager
def beating(settings: Settings, database: Database) -> Iterator[threading.Event]:
    """A beat in a thread; its event is its end."""
    beat = Beat(settings, database, dispatch.celery_app(settings))
    thread = threading.Thread(target=beat.run)
    thread.start()
    try:
        yield beat.stop
    finally:
        beat.stop.set()
        thread.join(20)
        assert not thread.is_alive()


def until(happened: Callable[[], object]) -> None:
    for _ in range(300):
        if happened():
            return
        threading.Event().wait(0.1)
    raise AssertionError("not within 30 s")


def arrived(url: str, queue: str) -> set[str]:
    """The tasks that wait in a queue."""
    with Redis.from_url(url) as broker:
        messages = broker.lrange(queue, 0, -1)
    return {json.loads(message)["headers"]["task"] for message in messages}  # type: ignore[union-attr]


def owe(database: Database, task: str) -> None:
    with database.transaction() as session:
        outbox.owe(session, task, new_id())


def test_what_is_owed_is_sent_to_the_queue_of_its_workers(
    settings: Settings, database: Database
) -> None:
    with beating(settings, database):
        owe(database, outbox.RUN_SHARD)
        owe(database, outbox.EMBED)
        owe(database, outbox.PUSH)
        url, cpu = settings.broker_url, {outbox.EMBED, outbox.PUSH}
        until(lambda: arrived(url, dispatch.GPU_QUEUE) == {outbox.RUN_SHARD})
        until(lambda: arrived(url, dispatch.CPU_QUEUE) == cpu)


def test_a_broker_that_was_away_gets_everything(
    settings: Settings, database: Database, service_folder: Path
) -> None:
    server = Server(service_folder / "away", home.free_port(), password="test")
    here = settings.model_copy(update={"broker_url": server.url(), "outbox_retry_seconds": 1})
    log = service_folder / "away.log"
    with beating(here, database) as stop:
        owe(database, outbox.EMBED)
        with server.running(log):
            until(lambda: outbox.EMBED in arrived(server.url(), dispatch.CPU_QUEUE))
        owe(database, outbox.PUSH)
        threading.Event().wait(1)
        assert not stop.is_set()
        with server.running(log):
            until(lambda: outbox.PUSH in arrived(server.url(), dispatch.CPU_QUEUE))


def test_a_beat_whose_connections_are_cut_goes_on(settings: Settings, database: Database) -> None:
    with beating(settings, database):
        owe(database, outbox.EMBED)
        until(lambda: sends(database) == {1})
        with database.transaction() as session:
            session.execute(CUT)
        owe(database, outbox.EMBED)
        until(lambda: sends(database) == {1} and owed(database) == 2)


def sends(database: Database) -> set[int]:
    with database.transaction() as session:
        return set(session.scalars(select(Outbox.sends)))


def owed(database: Database) -> int:
    with database.transaction() as session:
        return len(session.scalars(select(Outbox.key)).all())


def test_a_lease_that_ran_out_is_freed_and_its_shard_owed(
    settings: Settings, database: Database, floor: Floor
) -> None:
    (shard,) = floor.shards(floor.submit(1, 1))
    with database.transaction() as session:
        lease = claim(session, shard.id, "dead", 0.2)
    assert lease is not None
    with beating(settings, database):
        until(lambda: owed(database) == 1)
    with pytest.raises(LeaseLost), database.transaction() as session:
        renew(session, lease, 60)


def test_after_an_outage_a_live_worker_may_renew_first(
    settings: Settings, database: Database, floor: Floor
) -> None:
    """Nobody could renew meanwhile: a lease that ran out says nothing about its worker."""
    (shard,) = floor.shards(floor.submit(1, 1))
    with beating(settings.model_copy(update={"heartbeat_seconds": 60}), database):
        owe(database, outbox.EMBED)
        until(lambda: sends(database) == {0, 1} or sends(database) == {1})
        with database.transaction() as session:
            lease = claim(session, shard.id, "alive", 60)
            assert lease is not None
            session.execute(CUT)
            session.get_one(Shard, shard.id).lease_until = datetime(2001, 1, 1, tzinfo=UTC)
        owe(database, outbox.PUSH)
        until(lambda: sends(database) == {1} and owed(database) == 2)  # it is at work again
        with database.transaction() as session:
            assert renew(session, lease, 60) == "running"


def test_datasets_with_a_project_are_owed_their_reconciling(
    settings: Settings, database: Database, floor: Floor
) -> None:
    with database.transaction() as session:
        session.get_one(Dataset, floor.dataset.id).label_studio_project = 5
    with beating(settings, database):
        until(lambda: reconciled(database) == {floor.dataset.id})


def reconciled(database: Database) -> set[object]:
    with database.transaction() as session:
        return set(session.scalars(select(Outbox.key).where(Outbox.task == outbox.RECONCILE)))


def test_what_was_answered_or_handled_long_ago_is_deleted(
    settings: Settings, database: Database
) -> None:
    with database.transaction() as session:
        asked = [requests.create(session, "preview", {}) for _ in range(3)]
        for number in range(3):
            reviews.record_event(session, {"action": "x", "number": number})
        events = reviews.unhandled(session, 3)
        reviews.mark_handled(session, *(event.id for event in events[:2]))
        for request in asked[:2]:
            requests.answer(session, request, {})
    old = "UPDATE {} SET {} = now() - interval '31 days' WHERE id = '{}'"
    with database.transaction() as session:
        session.execute(text(old.format("requests", "done_at", asked[0].id)))
        session.execute(text(old.format("webhook_events", "handled_at", events[0].id)))
    with beating(settings, database):
        until(lambda: kept(database, Request) == {asked[1].id, asked[2].id})
        until(lambda: kept(database, WebhookEvent) == {events[1].id, events[2].id})


def kept(database: Database, table: Any) -> set[object]:
    with database.transaction() as session:
        return set(session.scalars(select(table.id)))
