"""The kinds of harm. Each does one thing to a plant, at a moment that the run chose by its seed."""

import os
import random
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from kombu.exceptions import OperationalError
from redis import Redis, RedisError

from factory import dispatch, outbox
from factory.local import process

from . import points
from .plant import LEASE, OURS, PATIENCE, SMALL, STOPPING, TOKEN, Plant
from .proxy import Trap
from .servers import may_mount, rabbitmq_server

Harm = Callable[[Plant, random.Random], None]
WORKERS = ("worker-1", "worker-2", "worker-3")
MID_SHARD = """
SELECT split_part(s.worker, ':', 2)::int FROM shards s
WHERE s.state = 'leased' AND s.lease_until > clock_timestamp() AND (
  SELECT count(*) FROM samples m WHERE m.shard_id = s.id) BETWEEN 1 AND s.stop - s.start - 1
"""
SHIFT = 600  # seconds that a worker's clock is wrong by
WRONG_CLOCK = Path(__file__).with_name("wrong_clock.c")
BULK = 40  # samples of 50 kB each: too much for a full disk


def always(plant: Plant) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class Row:
    """One kind of harm, how often it is done in the whole suite, and what the plant stands on.
    `around` changes the plant for as long as the row is done."""

    name: str
    harm: Harm
    times: int
    on: str = "redis"
    around: Callable[[Plant], AbstractContextManager[None]] = always


def kill_worker(plant: Plant, rng: random.Random) -> None:
    """The parent alone or with its children."""
    member = plant.members[rng.choice(WORKERS)]
    if rng.random() < 0.5:
        member.kill()
    else:
        _kill(member.pid)


def kill_worker_at(point: int) -> Harm:
    """With its children, while one of them is held at this point."""

    def harm(plant: Plant, rng: random.Random) -> None:
        with points.held(plant.server.url(), point) as held:
            victim = held.first(PATIENCE)
            plant.strike()
            _kill_worker_of(plant, victim)

    return harm


def kill_worker_mid_shard(plant: Plant, rng: random.Random) -> None:
    """When some of a shard's samples are stored, and some are not."""
    end = time.monotonic() + PATIENCE
    while not (found := plant.rows(MID_SHARD)):
        assert time.monotonic() < end, "no shard is half done"
        time.sleep(0.01)
    plant.strike()
    _kill_worker_of(plant, rng.choice(found)[0])


def kill_child(plant: Plant, rng: random.Random) -> None:
    """The child that holds the models."""
    names = rng.sample(WORKERS, len(WORKERS))
    for name in names:
        if children := plant.members[name].children():
            _kill(rng.choice(children).pid)
            return


def kill_web(plant: Plant, rng: random.Random) -> None:
    plant.members["web"].kill()


def kill_web_before_commit(plant: Plant, rng: random.Random) -> None:
    """A job is being stored."""
    with _submitting(plant), points.held(plant.server.url(), points.SUBMIT) as held:
        held.first(PATIENCE)
        plant.strike()
        kill_web(plant, rng)


def kill_web_before_reply(plant: Plant, rng: random.Random) -> None:
    """A job is stored, and nobody is told."""
    with _submitting(plant, trap := Trap()):
        assert trap.caught.wait(PATIENCE), "no answer came by"
        plant.strike()
        kill_web(plant, rng)


def kill_web_and_beat_before_publishing(plant: Plant, rng: random.Random) -> None:
    """A job is stored, nobody is told, and no worker was woken."""
    with (
        _submitting(plant, trap := Trap()),
        points.held(plant.server.url(), points.PUBLISH) as held,
    ):
        held.first(PATIENCE)
        assert trap.caught.wait(PATIENCE), "no answer came by"
        plant.strike()
        kill_web(plant, rng)
        kill_beat(plant, rng)


@contextmanager
def _submitting(plant: Plant, trap: Trap | None = None) -> Iterator[None]:
    """Someone submits a job meanwhile, and goes on until it is accepted; the first answer may be
    trapped."""

    def submit() -> None:
        try:
            plant.accepted.add(plant.submit(SMALL))
        except AssertionError as error:
            plant.complaints.append(str(error))

    plant.front.trap = trap
    plant.waiting = threading.Thread(target=submit)
    plant.waiting.start()
    try:
        yield
    finally:
        plant.front.trap = None
        if trap:
            trap.opened.set()


def kill_beat(plant: Plant, rng: random.Random) -> None:
    beats = [name for name in plant.members if name.startswith("beat")]
    plant.members[rng.choice(beats)].kill()


def kill_redis(plant: Plant, rng: random.Random) -> None:
    plant.members["redis"].kill()


def kill_rabbitmq(plant: Plant, rng: random.Random) -> None:
    plant.members["rabbitmq"].kill()


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

    def thaw() -> None:
        time.sleep(2 * LEASE)
        for pid in frozen:
            _signal(pid, signal.SIGCONT)

    for pid in frozen:
        _signal(pid, signal.SIGSTOP)
    plant.ending = threading.Thread(target=thaw)
    plant.ending.start()


def wipe_redis(plant: Plant, rng: random.Random) -> None:
    """It forgets all, and is started again."""
    with suppress(RedisError), Redis.from_url(plant.settings.broker_url) as broker:
        broker.flushall()
    kill_redis(plant, rng)


def wipe_rabbitmq(plant: Plant, rng: random.Random) -> None:
    """It is started again with an empty folder."""
    assert plant.rabbit is not None
    with plant.lock:
        member = plant.members["rabbitmq"]
        member.kill()
        assert member.running is not None
        member.running.wait()
        shutil.rmtree(plant.rabbit.data, ignore_errors=True)


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
    plant.strike()


def refuse_connections(plant: Plant, rng: random.Random) -> None:
    """The database is out of reach for a while, sometimes for longer than a lease."""
    plant.proxy.refusing = True
    plant.proxy.cut()
    time.sleep(rng.uniform(0.5, 1.5 * LEASE))
    plant.proxy.refusing = False
    plant.strike()


def stop_worker(plant: Plant, rng: random.Random) -> None:
    """As an upgrade does: SIGTERM, and the worker hands its shard back and ends in time."""
    told = plant.members[rng.choice(WORKERS)].running
    assert told is not None
    told.terminate()

    def wait() -> None:
        if not process.wait(told, STOPPING):
            plant.complaints.append(f"a worker did not end within {STOPPING:.0f} s of SIGTERM")

    plant.ending = threading.Thread(target=wait)
    plant.ending.start()


def stop_worker_without_database(plant: Plant, rng: random.Random) -> None:
    """It can neither store nor hand back what it has, and ends in time all the same."""
    plant.proxy.refusing = True
    plant.proxy.cut()
    stop_worker(plant, rng)
    time.sleep(rng.uniform(0.5, 2 * LEASE))
    plant.proxy.refusing = False
    plant.strike()


def stop_worker_without_broker(plant: Plant, rng: random.Random) -> None:
    """The one that it is connected to has died, and is not back for a while."""
    with plant.lock:
        kill_redis(plant, rng)
        stop_worker(plant, rng)
        time.sleep(rng.uniform(0.5, 2 * LEASE))
    plant.strike()


def turn_clocks(plant: Plant, rng: random.Random) -> None:
    """One worker's clock jumps, ten minutes to either side of the true time."""
    clock = _clock(plant, rng.choice(WORKERS))
    clock.write_text(f"{rng.choice((-SHIFT, SHIFT)):+d}\n")
    time.sleep(1.5)  # they look once in a second


@contextmanager
def wrong_clocks(plant: Plant) -> Iterator[None]:
    """Workers whose clocks are wrong, in place of those whose clocks are right."""
    library = plant.settings.home / "wrong_clock.so"
    build = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(WRONG_CLOCK), "-ldl"]
    subprocess.run(build, check=True)
    for shift, name in zip((SHIFT, -SHIFT, SHIFT), WORKERS, strict=True):
        _clock(plant, name).write_text(f"{shift:+d}\n")
        plant.drop(name)
        plant.add(
            name,
            *OURS[name],
            LD_PRELOAD=str(library),
            WRONG_CLOCK=str(_clock(plant, name)),
        )
    yield
    for name in WORKERS:
        plant.drop(name)
        plant.add(name, *OURS[name])


def _clock(plant: Plant, name: str) -> Path:
    return plant.settings.home / f"{name}.clock"


def fill_disk(plant: Plant, rng: random.Random) -> None:
    """Until the database can take nothing more: that is told to who sends samples and jobs, and
    nothing of it is stored. Then there is room again, and all goes in."""
    assert plant.disk is not None
    plant.disk.fill()
    try:
        end = time.monotonic() + PATIENCE
        while (refused := _send_bulk(plant)) is None or refused.is_success:
            assert time.monotonic() < end, "a full disk takes it all"
        assert refused.status_code == 503, refused.text
        assert int(refused.headers["Retry-After"]) > 0
        time.sleep(rng.uniform(0, 1.5 * LEASE))
    finally:
        plant.disk.make_room()
    plant.strike()
    plant.until("the database", plant.server.ready)
    assert _bulk_rows(plant) % BULK == 0, "a part of what was refused is stored"


@contextmanager
def beside_bulk(plant: Plant) -> Iterator[None]:
    """A dataset that large samples are sent to."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    body = {"name": "bulk", "prompt": "p"}
    answer = httpx.post(f"{plant.settings.url}/api/v1/datasets", json=body, headers=headers)
    assert answer.status_code in (201, 409), answer.text
    yield


def _send_bulk(plant: Plant) -> httpx.Response | None:
    lines = "".join(f'{{"text": "{os.urandom(25_000).hex()}"}}\n' for _ in range(BULK))
    headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/x-ndjson"}
    with suppress(httpx.HTTPError):
        url = f"{plant.settings.url}/api/v1/datasets/bulk/samples"
        return httpx.post(url, content=lines, headers=headers, timeout=60)
    return None


def _bulk_rows(plant: Plant) -> int:
    ((rows,),) = plant.rows(
        "SELECT count(*)::int FROM samples JOIN datasets d ON d.id = dataset_id "
        "WHERE d.name = 'bulk'"
    )
    return int(rows)


@contextmanager
def two_beats(plant: Plant) -> Iterator[None]:
    """Two dispatchers, two reapers."""
    plant.add("beat-2", "beat")
    yield
    plant.drop("beat-2")


def soak(minutes: int) -> Row:
    """Any of the kills, five in a minute: whoever is late hurries."""
    kills = [row for row in ROWS if row.on == "redis" and row.name.startswith("kill -9")]
    due: list[float] = []

    def harm(plant: Plant, rng: random.Random) -> None:
        due.append(due[-1] + 12 if due else time.monotonic())
        time.sleep(max(0.0, due[-1] - time.monotonic()))
        plant.strike()
        rng.choice(kills).harm(plant, rng)

    return Row(f"a soak of {minutes} minutes, five kills a minute", harm, 5 * minutes)


def why_not(row: Row) -> str | None:
    """What this machine lacks for a row, if anything."""
    if row.on == "rabbitmq" and rabbitmq_server() is None:
        return "RabbitMQ is not installed (apt-get install rabbitmq-server)"
    if row.on == "small disk":
        with tempfile.TemporaryDirectory() as folder:
            return may_mount(Path(folder))
    if row.around is wrong_clocks and shutil.which("cc") is None:
        return "no C compiler is installed (apt-get install gcc)"
    return None


def _kill_worker_of(plant: Plant, child: int) -> None:
    """SIGKILL to a worker, by the pid of its child."""
    for name in WORKERS:
        member = plant.members[name]
        if child in {each.pid for each in member.children()}:
            member.kill()
            return
    _kill(child)


def _kill(pid: int) -> None:
    _signal(pid, signal.SIGKILL)


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, psutil.Error):
        os.kill(pid, number)


ROWS = (
    Row("kill -9 of a worker, at any time", kill_worker, 25),
    Row("kill -9 of a worker, before it claims", kill_worker_at(points.CLAIM), 25),
    Row("kill -9 of a worker, mid-shard", kill_worker_mid_shard, 25),
    Row("kill -9 of a worker, before its commit", kill_worker_at(points.STORE), 25),
    Row("kill -9 of a worker, in its commit", kill_worker_at(points.COMMIT), 25),
    Row("kill -9 of a worker, all stored, not told", kill_worker_at(points.FINISH), 25),
    Row("kill -9 of a worker's child", kill_child, 25),
    Row("kill -9 of the API, before its commit", kill_web_before_commit, 25),
    Row("kill -9 of the API and beat, before publishing", kill_web_and_beat_before_publishing, 25),
    Row("kill -9 of the API, before its reply", kill_web_before_reply, 25),
    Row("kill -9 of the dispatcher and reaper (beat)", kill_beat, 25),
    Row("two beats, either killed", kill_beat, 25, around=two_beats),
    Row("kill -9 of Redis", kill_redis, 25),
    Row("Redis wiped and restarted", wipe_redis, 5),
    Row("kill -9 of Postgres", kill_postgres, 25),
    Row("a worker frozen for two leases", freeze_worker, 5),
    Row("a worker told to stop", stop_worker, 5),
    Row("a worker told to stop, no database", stop_worker_without_database, 5),
    Row("a worker told to stop, no broker", stop_worker_without_broker, 5),
    Row("messages repeated ten times", repeat_messages, 5),
    Row("connections to the database cut", cut_connections, 50),
    Row("COMMITs lost or not answered", lose_commits, 10),
    Row("the database out of reach", refuse_connections, 5),
    Row("workers' clocks ten minutes off", turn_clocks, 5, around=wrong_clocks),
    Row("the database's disk full", fill_disk, 5, "small disk", beside_bulk),
    Row("the lease as it is set by default: kill -9 of a worker", kill_worker, 5, "real lease"),
    Row("RabbitMQ: kill -9 of the broker", kill_rabbitmq, 25, "rabbitmq"),
    Row("RabbitMQ: kill -9 of a worker", kill_worker, 25, "rabbitmq"),
    Row("RabbitMQ: wiped and restarted", wipe_rabbitmq, 5, "rabbitmq"),
)
