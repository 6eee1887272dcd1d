"""A whole factory of real processes that may be harmed: Postgres behind a proxy, Redis, web, two
GPU workers and a beat, each started again when it dies, and someone who keeps submitting jobs."""

import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

import httpx
import psutil

from factory import datasets, models
from factory.cli.processes import worker_command
from factory.db import Database
from factory.local import home, postgres, process, redis
from factory.local.process import Command
from factory.settings import Settings

from ..integration.workers.factory_floor import PROMPT, save_pair
from .proxy import Proxy

LEASE = 3.0  # seconds
MARK = "FACTORY_FAULTS"  # in the environment of all that a plant starts
TOKEN = "sf_the-token-of-the-fault-tests"
RESTART = 0.3  # seconds until a dead member is started again
PATIENCE = 120.0  # seconds until what must happen has not happened
BACKLOG = 2  # jobs at work at a time
WORK: dict[str, Any] = {
    "kind": "generate",
    "dataset": "harmed",
    "model": "tiny",
    "count": 36,
    "shard_size": 12,
    "audit": 0.2,
    "sampling": {"temperature": 2.0, "max_new_tokens": 60},
    "review": {"push": False},
}


@dataclass
class Member:
    """One process that is kept alive."""

    name: str
    prepare: Callable[[], Command]
    log: Path
    running: Popen[bytes] | None = None
    starts: int = 0

    def start(self) -> None:
        self.running = process.launch(self.prepare(), self.log)
        self.starts += 1

    @property
    def pid(self) -> int:
        assert self.running is not None
        return self.running.pid

    def is_dead(self) -> bool:
        return self.running is None or self.running.poll() is not None

    def kill(self) -> None:
        """SIGKILL to it and to all that it started."""
        process.kill_group(self.pid)

    def children(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).children(recursive=True)
        return []


@dataclass
class Plant:
    """The factory that is harmed, and what was asked of it."""

    settings: Settings
    proxy: Proxy
    database: Database  # reached directly, not through the proxy
    members: dict[str, Member]
    mark: str
    accepted: set[uuid.UUID] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closing: threading.Event = field(default_factory=threading.Event)

    def keep(self) -> None:
        """Start members that died, until the plant is closed."""
        while not self._closing.wait(RESTART):
            with self._lock:
                for member in self.members.values():
                    if member.is_dead() and not self._closing.is_set():
                        member.start()

    def add(self, name: str, *arguments: str) -> None:
        """One more process of ours that is kept alive."""
        with self._lock:
            self.members[name] = _own(self.settings, self.mark, name, arguments)
            self.members[name].start()

    def drop(self, name: str) -> None:
        with self._lock:
            member = self.members.pop(name)
            member.kill()
            assert member.running is not None
            member.running.wait()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Keep BACKLOG jobs at work: what is accepted is kept in mind."""
        done = threading.Event()
        submitters = [
            threading.Thread(target=self._submit_until, args=(done,)) for _ in range(BACKLOG)
        ]
        for submitter in submitters:
            submitter.start()
        try:
            yield
        finally:
            done.set()
            for submitter in submitters:
                submitter.join()

    def _submit_until(self, done: threading.Event) -> None:
        while not done.is_set():
            job = self.submit()
            self.accepted.add(job)
            while not done.is_set() and not self._has_ended(job):
                done.wait(0.1)

    def submit(self) -> uuid.UUID:
        """Send one job under a key of its own until it is accepted, as a client should."""
        headers = {"Authorization": f"Bearer {TOKEN}", "Idempotency-Key": uuid.uuid4().hex}
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with suppress(httpx.HTTPError):
                url = f"{self.settings.url}/api/v1/jobs"
                answer = httpx.post(url, json=WORK, headers=headers, timeout=10)
                if answer.is_success:
                    return uuid.UUID(answer.json()["id"])
                assert answer.status_code == 503, answer.text
            time.sleep(0.2)
        raise AssertionError(f"no job is accepted within {PATIENCE} s")

    def _has_ended(self, job: uuid.UUID) -> bool:
        return job not in self.unended()

    def unended(self) -> set[uuid.UUID]:
        rows = self.rows("SELECT id FROM jobs WHERE ended_at IS NULL")
        return {id_ for (id_,) in rows}

    def rows(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        """What a query says, asked until the database answers."""
        from sqlalchemy import text

        return self.database.retrying(
            lambda session: [tuple(row) for row in session.execute(text(query), values)], PATIENCE
        )

    def until(self, what: str, happened: Callable[[], bool], seconds: float = PATIENCE) -> float:
        """Wait; returns the seconds it took. Raises AssertionError with the ends of the logs."""
        start = time.monotonic()
        if not process.until(happened, seconds, 0.1):
            logs = [f"--- {m.name}\n{process.tail(m.log)}" for m in self.members.values()]
            raise AssertionError("\n".join([f"{what}: not within {seconds:.0f} s", *logs]))
        return time.monotonic() - start

    def strangers(self) -> list[psutil.Process]:
        """Processes that the plant started, of which no living member knows."""
        known = {pid for m in self.members.values() for pid in _tree(m)}
        return [p for p in _marked(self.mark) if p.pid not in known]

    def close(self) -> None:
        self._closing.set()
        with self._lock:
            for name in reversed(self.members):
                self.members[name].kill()
        self.database.close()
        for left in _marked(self.mark):
            with suppress(psutil.NoSuchProcess):
                left.kill()


def _tree(member: Member) -> set[int]:
    return {member.pid, *(child.pid for child in member.children())}


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for candidate in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if candidate.environ().get(MARK) == mark and candidate.status() != "zombie":
                found.append(candidate)
    return found


@contextmanager
def open_plant(folder: Path) -> Iterator[Plant]:
    """A plant in this folder, at work when the block begins, and gone when it ends."""
    folder.chmod(0o711)
    root = home.open_home(folder / "home")
    server = postgres.Server(root.postgres, home.free_port(), "test")
    broker = redis.Server(root.redis, home.free_port(), "test")
    mark = uuid.uuid4().hex
    proxy = Proxy(server.port)
    settings = Settings(
        home=root.root,
        database_url=server.url().replace(f":{server.port}/", f":{proxy.port}/"),
        broker_url=broker.url(),
        port=home.free_port(),
        token=TOKEN,
        secret_key="0" * 64,
        device="cpu",
        slots=4,
        commit_batch=3,
        lease_seconds=LEASE,
        heartbeat_seconds=0.5,
        outbox_retry_seconds=2,
        shard_attempts=50,
    )
    settings = settings.model_copy(update={"url": f"http://127.0.0.1:{settings.port}"})
    servers = {
        name: Member(name, _marking(prepare, mark), root.logs / f"{name}.log")
        for name, prepare in (("postgres", server.prepare), ("redis", broker.prepare))
    }
    plant = Plant(settings, proxy, Database(server.url()), servers, mark)
    try:
        _start(plant, server, broker)
        yield plant
    finally:
        plant.close()
        proxy.close()


def _start(plant: Plant, server: postgres.Server, broker: redis.Server) -> None:
    for member in plant.members.values():
        member.start()
    plant.until("Postgres", server.ready)
    server.bootstrap()
    plant.until("Redis", broker.ready)
    migrated = process.run(_own(plant.settings, plant.mark, "migrate", ("migrate",)).prepare())
    assert migrated.returncode == 0, migrated.stdout
    folder = plant.settings.models_dir / "tiny"
    save_pair(folder)
    with plant.database.transaction() as session:
        datasets.create(session, "harmed", PROMPT)
        base, expert = str(folder / "base"), str(folder / "expert")
        models.add(session, plant.settings, name="tiny", base=base, expert=expert)
    for name, arguments in (
        ("web", ("serve",)),
        ("beat", ("beat",)),
        ("worker-1", ("worker", "gpu")),
        ("worker-2", ("worker", "gpu")),
    ):
        plant.add(name, *arguments)
    threading.Thread(target=plant.keep, name="keeper", daemon=True).start()
    plant.until("the first job", lambda: plant._has_ended(_first(plant)), PATIENCE)


def _first(plant: Plant) -> uuid.UUID:
    if not plant.accepted:
        plant.accepted.add(plant.submit())
    return next(iter(plant.accepted))


def _marking(prepare: Callable[[], Command], mark: str) -> Callable[[], Command]:
    def marked() -> Command:
        command = prepare()
        return Command(
            command.name,
            command.argv,
            {**command.env, MARK: mark},
            command.cwd,
            command.account,
            command.stop_signal,
        )

    return marked


def _own(settings: Settings, mark: str, name: str, arguments: tuple[str, ...]) -> Member:
    """`factory <arguments>` with these settings."""
    given = settings.model_dump(include=settings.model_fields_set | {"url"})
    environment = {f"FACTORY_{key.upper()}": str(value) for key, value in given.items()}
    environment |= {MARK: mark, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    argv = (
        tuple(worker_command(arguments[1], settings))
        if arguments[0] == "worker"
        else (sys.executable, "-m", "factory", *arguments)
    )
    command = Command(name, argv, environment, Path.cwd(), None, signal.SIGTERM)
    return Member(name, lambda: command, settings.home / "logs" / f"{name}.log")
