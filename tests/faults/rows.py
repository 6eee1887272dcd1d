"""The kinds of harm. Each does one thing to a plant, at a moment that the run chose by its seed."""

import os
import random
import signal
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psutil
from kombu.exceptions import OperationalError
from redis import Redis, RedisError
from sqlalchemy import select

from factory import dispatch, outbox
from factory.tables import Shard

from .plant import LEASE, Plant

Harm = Callable[[Plant, random.Random], None]
WORKERS = ("worker-1", "worker-2")


@dataclass(frozen=True)
class Row:
    """One kind of harm, and how often it is done in the whole suite."""

    name: str
    harm: Harm
    times: int
    extra: tuple[str, ...] = ()  # further members that run during this row: `factory <name>`


def kill_worker(plant: Plant, rng: random.Random) -> None:
    """The parent alone or with its children."""
    member = plant.members[rng.choice(WORKERS)]
    if rng.random() < 0.5:
        member.kill()
    else:
        _kill(member.pid)


def kill_child(plant: Plant, rng: random.Random) -> None:
    """The child that holds the models."""
    names = rng.sample(WORKERS, len(WORKERS))
    for name in names:
        if children := plant.members[name].children():
            _kill(rng.choice(children).pid)
            return


def kill_web(plant: Plant, rng: random.Random) -> None:
    plant.members["web"].kill()


def kill_beat(plant: Plant, rng: random.Random) -> None:
    beats = [name for name in plant.members if name.startswith("beat")]
    plant.members[rng.choice(beats)].kill()


def kill_redis(plant: Plant, rng: random.Random) -> None:
    plant.members["redis"].kill()


def kill_postgres(plant: Plant, rng: random.Random) -> None:
    """All of it, or one of its backends, after which it recovers by itself."""
    member = plant.members["postgres"]
    backends = member.children()
    if backends and rng.random() < 0.3:
        _kill(rng.choice(backends).pid)
    else:
        member.kill()


def freeze_worker(plant: Plant, rng: random.Random) -> None:
    """For twice its lease; then it wakes and finds its shard with another."""
    member = plant.members[rng.choice(WORKERS)]
    frozen = [member.pid, *(child.pid for child in member.children())]
    for pid in frozen:
        _signal(pid, signal.SIGSTOP)
    time.sleep(2 * LEASE)
    for pid in frozen:
        _signal(pid, signal.SIGCONT)


def wipe_broker(plant: Plant, rng: random.Random) -> None:
    with suppress(RedisError), Redis.from_url(plant.settings.broker_url) as broker:
        broker.flushall()


def repeat_messages(plant: Plant, rng: random.Random) -> None:
    """Ten times each, in any order: for shards that wait, are held, and are done."""
    keys = [key for (key,) in plant.rows("SELECT id FROM shards ORDER BY id DESC LIMIT 12")]
    messages: list[uuid.UUID] = keys * 10
    rng.shuffle(messages)
    app = dispatch.celery_app(plant.settings)
    with suppress(OperationalError):
        for key in messages:
            dispatch.send(app, outbox.RUN_SHARD, key)
    app.close()


def cut_connections(plant: Plant, rng: random.Random) -> None:
    plant.proxy.cut()


def lose_commits(plant: Plant, rng: random.Random) -> None:
    """For a second: COMMITs that are not answered, and some that do not arrive."""
    plant.proxy.lost_replies, plant.proxy.lost_commits = 0.3, 0.1
    time.sleep(1)
    plant.proxy.lost_replies = plant.proxy.lost_commits = 0.0


def refuse_connections(plant: Plant, rng: random.Random) -> None:
    """The database is out of reach for a while, sometimes for longer than a lease."""
    plant.proxy.refusing = True
    plant.proxy.cut()
    time.sleep(rng.uniform(0.5, 1.5 * LEASE))
    plant.proxy.refusing = False


def stop_worker(plant: Plant, rng: random.Random) -> None:
    """As an upgrade does: SIGTERM, and the worker hands its shard back."""
    _signal(plant.members[rng.choice(WORKERS)].pid, signal.SIGTERM)


def soak(plant: Plant, rng: random.Random) -> None:
    """Any of the others, five in a minute."""
    started = time.monotonic()
    rng.choice(ROWS).harm(plant, rng)
    time.sleep(max(0.0, 12 - 0.75 - (time.monotonic() - started)))


def _kill(pid: int) -> None:
    _signal(pid, signal.SIGKILL)


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, psutil.Error):
        os.kill(pid, number)


def held_shards(plant: Plant) -> dict[uuid.UUID, int]:
    """The shards that are leased now, with their fences."""
    statement = select(Shard.id, Shard.fence).where(Shard.state == "leased")
    return plant.database.retrying(
        lambda session: dict(session.execute(statement).tuples().all()), 120
    )


ROWS = (
    Row("kill -9 of a worker", kill_worker, 25),
    Row("kill -9 of a worker's child", kill_child, 25),
    Row("kill -9 of the beat", kill_beat, 25),
    Row("kill -9 of the web process", kill_web, 25),
    Row("kill -9 of Redis", kill_redis, 25),
    Row("kill -9 of Postgres", kill_postgres, 25),
    Row("a worker frozen for two leases", freeze_worker, 10),
    Row("a worker told to stop", stop_worker, 10),
    Row("the broker wiped", wipe_broker, 25),
    Row("messages repeated ten times", repeat_messages, 25),
    Row("two beats, either killed", kill_beat, 25, ("beat",)),
    Row("connections to the database cut", cut_connections, 50),
    Row("COMMITs lost or not answered", lose_commits, 25),
    Row("the database out of reach", refuse_connections, 10),
)
