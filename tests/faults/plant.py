"""A whole factory of real processes that may be harmed: Postgres and the web process behind
proxies, a broker, three GPU workers and a beat, each started again when it dies, and someone who
keeps submitting jobs."""

import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from subprocess import Popen
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
from sqlalchemy import text

from factory import datasets, models
from factory.cli.processes import worker_command
from factory.db import Database
from factory.errors import StackError
from factory.local import home, postgres, process, redis
from factory.local.process import Command
from factory.settings import Settings

from ..integration.workers.factory_floor import PROMPT, save_pair
from . import points
from .proxy import Proxy
from .servers import RabbitMQ, SmallDisk, listens, small_disk
from .starter import Forked, launcher

LEASE = 3.0  # seconds
MARK = "FACTORY_FAULTS"  # in the environment of all that a plant starts
TOKEN = "sf_the-token-of-the-fault-tests"
RESTART = 0.3  # seconds until a dead member is started again
PATIENCE = 240.0  # seconds until what must happen has not happened
STOPPING = 30.0  # seconds within which a member that is told to stop has ended
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
SMALL = {**WORK, "count": 4}
KINDS = ("redis", "rabbitmq", "small disk", "real lease")  # what a plant may stand on
OURS = {
    "web": ("serve",),
    "beat": ("beat",),
    "worker-1": ("worker", "gpu"),
    "worker-2": ("worker", "gpu"),
    "worker-3": ("worker", "gpu"),
}
DONE = "SELECT (SELECT count(*) FROM samples), (SELECT coalesce(sum(fence), 0) FROM shards)"
SERVERS = ("starter", "postgres", "redis", "epmd", "rabbitmq")


class LeftBehind(AssertionError):
    """A plant did not end as it should. Says what is left of it."""


@dataclass
class Member:
    """One process that is kept alive."""

    name: str
    prepare: Callable[[], Command]
    log: Path
    launch: Callable[[Command, Path], "Popen[bytes] | Forked"] = process.launch
    running: "Popen[bytes] | Forked | None" = None
    stop_signal: signal.Signals = signal.SIGTERM

    def start(self) -> None:
        command = self.prepare()
        self.running, self.stop_signal = self.launch(command, self.log), command.stop_signal

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


@dataclass(frozen=True)
class Standing:
    """What was at work at one moment: the held shards with their fences and the ends of their
    leases (s), how many samples there were, and how often a shard was leased so far."""

    at: float  # time.monotonic()
    held: dict[uuid.UUID, tuple[int, float]]
    samples: int
    claims: int


@dataclass
class Plant:
    """The factory that is harmed, and what was asked of it."""

    settings: Settings
    server: postgres.Server
    proxy: Proxy  # before Postgres
    front: Proxy  # before the web process
    database: Database  # reached directly, not through the proxy
    members: dict[str, Member]
    mark: str
    rabbit: RabbitMQ | None = None
    disk: SmallDisk | None = None
    accepted: set[uuid.UUID] = field(default_factory=set)
    complaints: list[str] = field(default_factory=list)  # of what should not have happened
    struck: Standing | None = None  # when the last harm was done
    ending: threading.Thread | None = None  # what ends a harm that goes on for a while
    waiting: threading.Thread | None = None  # who has sent a job and is not answered yet
    lock: threading.Lock = field(default_factory=threading.Lock)
    _closing: threading.Event = field(default_factory=threading.Event)

    def keep(self) -> None:
        """Start members that died, until the plant is closed."""
        while not self._closing.wait(RESTART):
            with self.lock:
                for member in self.members.values():
                    if member.is_dead() and not self._closing.is_set():
                        with suppress(OSError, StackError):  # its disk is full
                            member.start()

    def add(self, name: str, *arguments: str, **environment: str) -> None:
        """One more process of ours that is kept alive."""
        with self.lock:
            member = _own(self.settings, self.mark, name, arguments, environment)
            if arguments[0] == "worker" and not environment:
                member.launch = launcher(_socket(self.settings))
            member.start()
            self.members[name] = member

    def drop(self, name: str) -> None:
        with self.lock:
            member = self.members.pop(name)
            member.kill()
            assert member.running is not None
            member.running.wait()

    def strike(self) -> None:
        """Note what is at work now: it is harmed next."""
        rows = self.rows(
            "SELECT id, fence, extract(epoch FROM lease_until)::float8 FROM shards "
            "WHERE state = 'leased'"
        )
        ((samples, claims),) = self.rows(DONE)
        held = {id_: (fence, until) for id_, fence, until in rows}
        self.struck = Standing(time.monotonic(), held, samples, claims)

    def is_taken_over(self, before: Standing) -> bool:
        """Whether what was held is done, or held again under a lease that is renewed, and whoever
        sent a job is answered."""
        if self.waiting is not None and self.waiting.is_alive():
            return False
        now = {
            id_: (state, fence, until)
            for id_, state, fence, until in self.rows(
                "SELECT id, state, fence, extract(epoch FROM lease_until)::float8 FROM shards "
                "WHERE id = ANY(:ids)",
                ids=list(before.held),
            )
        }
        for id_, (fence, until) in before.held.items():
            state, fence_now, until_now = now[id_]
            goes_on = state == "leased" and (fence_now > fence or until_now > until + LEASE / 3)
            if state != "done" and not goes_on:
                return False
        return True

    def is_at_work(self, before: Standing) -> bool:
        """Whether a shard was leased and a sample stored since, and the API answers."""
        ((samples, claims),) = self.rows(DONE)
        return samples > before.samples and claims > before.claims and self.answers()

    def answers(self) -> bool:
        with suppress(httpx.HTTPError):
            url = f"http://127.0.0.1:{self.settings.port}/healthz"
            return httpx.get(url, timeout=2).is_success
        return False

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

    def submit(self, body: dict[str, Any] = WORK) -> uuid.UUID:
        """Send one job under a key of its own until it is accepted, as a client should."""
        headers = {"Authorization": f"Bearer {TOKEN}", "Idempotency-Key": uuid.uuid4().hex}
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with suppress(httpx.HTTPError):
                url = f"{self.settings.url}/api/v1/jobs"
                answer = httpx.post(url, json=body, headers=headers, timeout=10)
                if answer.is_success:
                    return uuid.UUID(answer.json()["id"])
                assert answer.status_code == 503, answer.text
                assert int(answer.headers["Retry-After"]) > 0
            time.sleep(0.2)
        raise AssertionError(f"no job is accepted within {PATIENCE} s")

    def _has_ended(self, job: uuid.UUID) -> bool:
        return job not in self.unended()

    def unended(self) -> set[uuid.UUID]:
        rows = self.rows("SELECT id FROM jobs WHERE ended_at IS NULL")
        return {id_ for (id_,) in rows}

    def rows(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        """What a query says, asked until the database answers."""
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
        known = self._known()
        return [p for p in _marked(self.mark) if p.pid not in known]

    def stray_connections(self) -> list[str]:
        """Connections of the database server that no living member of the plant has open."""
        backends = self.rows(
            "SELECT client_port FROM pg_stat_activity "
            "WHERE datname = current_database() AND client_port > 0"
        )
        owners = {
            (c.laddr.port, c.raddr.port): c.pid for c in psutil.net_connections("tcp") if c.raddr
        }
        known, ends = self._known(), self.proxy.ends()
        return [
            f"a connection to Postgres from port {port}"
            for (port,) in backends
            if owners.get((port, self.server.port)) != os.getpid()
            or (port in ends and owners.get((ends[port], self.proxy.port)) not in known)
        ]

    def leaks(self, seconds: float) -> list[str]:
        """Processes and connections that no living member knows, looked at again and again for
        this time: what is there each time is left behind, anything else comes or goes."""
        end = time.monotonic() + seconds
        left = self._unknown()
        while left and time.monotonic() < end:
            time.sleep(0.2)
            left &= self._unknown()
        return sorted(left)

    def _unknown(self) -> set[str]:
        told = {f"process {each.pid}" for each in self.strangers()}
        return told | set(self.stray_connections())

    def is_ready_for_harm(self) -> bool:
        """Whether two workers can work, and shards are at work: whoever is harmed, another can
        take over."""
        able = [m for n, m in self.members.items() if n.startswith("worker") and m.children()]
        if len(able) < 2:
            return False
        self.strike()
        return self.struck is not None and bool(self.struck.held)

    def _known(self) -> set[int]:
        starter = self.members["starter"]
        others = [member for member in self.members.values() if member is not starter]
        return {os.getpid(), starter.pid, *(pid for member in others for pid in _tree(member))}

    def close(self) -> list[str]:
        """Stop all: first our own processes, as an upgrade does, then the servers. Returns what
        did not end within STOPPING, or was left behind: connections, processes, sockets."""
        self._closing.set()
        left = []
        with self.lock:
            servers = {n: m for n, m in self.members.items() if n in SERVERS}
            ours = {n: m for n, m in self.members.items() if n not in SERVERS}
            ports = {self.server.port, self.settings.port}
            left += _stop(ours)
            if "postgres" in servers and not servers["postgres"].is_dead():
                left += [each for each in self.leaks(5) if "Postgres" in each]
            self.database.close()
            left += _stop(servers)
        left += [f"process {p.pid} {p.cmdline()}" for p in _marked(self.mark)]
        self.front.close()
        self.proxy.close()
        process.until(lambda: not _sockets(ports), 5)  # the proxies' threads are ending
        left += _sockets(ports)
        left += [each for member in ours.values() for each in _ended_late(member)]
        for each in _marked(self.mark):
            with suppress(psutil.NoSuchProcess):
                each.kill()
        return left


def _tree(member: Member) -> set[int]:
    return {member.pid, *(child.pid for child in member.children())}


def _sockets(ports: set[int]) -> list[str]:
    """Of this process, at either end of which is one of these ports; another process may have been
    given the number meanwhile."""
    return [
        f"a socket between the ports {c.laddr.port} and {c.raddr.port}"
        for c in psutil.Process().net_connections("tcp")
        if c.raddr and ports & {c.laddr.port, c.raddr.port}
    ]


def _ended_late(member: Member) -> list[str]:
    """What a worker wrote when it was told to stop and had to end itself by force."""
    before, said, _ = member.log.read_text(errors="replace").partition('"worker.ended_late"')
    return [f"{member.name} stopped by force only:\n{before[-6000:]}{said}"] if said else []


def _stop(members: dict[str, Member]) -> list[str]:
    """Ask all to stop, and wait; returns who had to be killed, and the end of its log."""
    for member in members.values():
        assert member.running is not None
        process.ask(member.running, member.stop_signal)
    end = time.monotonic() + STOPPING
    late = []
    for name, member in members.items():
        assert member.running is not None
        if not process.wait(member.running, end - time.monotonic()):
            log = process.tail(member.log, 80)
            late.append(f"{name} is not stopped within {STOPPING:.0f} s\n{log}")
            member.kill()
            member.running.wait()
    return late


def _marked(mark: str) -> list[psutil.Process]:
    found = []
    for candidate in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if candidate.environ().get(MARK) == mark and candidate.status() != "zombie":
                found.append(candidate)
    return found


@contextmanager
def open_plant(folder: Path, kind: str = "redis") -> Iterator[Plant]:
    """A plant in this folder, at work when the block begins, and gone when it ends. Raises
    LeftBehind when it does not end as it should."""
    folder.chmod(0o711)
    with ExitStack() as stack:
        disk = stack.enter_context(small_disk(folder / "disk")) if kind == "small disk" else None
        plant = _build(folder, kind, disk)
        try:
            _start(plant)
            yield plant
        finally:
            left = plant.close()
        if left:
            raise LeftBehind("; ".join(left))


def _build(folder: Path, kind: str, disk: SmallDisk | None) -> Plant:
    root = home.open_home(folder / "home")
    place = disk.folder / "postgres" if disk else root.postgres
    server = postgres.Server(place, home.free_port(), "test")
    broker = redis.Server(root.redis, home.free_port(), "test")
    rabbit = RabbitMQ.at(folder / "rabbitmq") if kind == "rabbitmq" else None
    proxy, web = Proxy(server.port), home.free_port()
    front = Proxy(web)
    settings = Settings(
        home=root.root,
        database_url=server.url().replace(f":{server.port}/", f":{proxy.port}/"),
        broker_url=rabbit.url() if rabbit else broker.url(),
        port=web,
        url=f"http://127.0.0.1:{front.port}",
        token=TOKEN,
        secret_key="0" * 64,
        device="cpu",
        slots=4,
        commit_batch=3,
        **({} if kind == "real lease" else {"lease_seconds": LEASE, "heartbeat_seconds": 0.5}),
        outbox_retry_seconds=2,
        shard_attempts=50,
    )
    prepared = {"postgres": server.prepare}
    prepared |= (
        {"epmd": rabbit.names, "rabbitmq": rabbit.prepare} if rabbit else {"redis": broker.prepare}
    )
    mark = uuid.uuid4().hex
    members = {
        name: Member(name, _marking(prepare, mark), root.logs / f"{name}.log")
        for name, prepare in prepared.items()
    }
    if disk:
        server.prepare()
        with (place / "data" / "postgresql.conf").open("a") as file:
            file.write("max_wal_size = 64MB\nmin_wal_size = 32MB\n")
    database = Database(server.url())
    return Plant(settings, server, proxy, front, database, members, mark, rabbit, disk)


def _start(plant: Plant) -> None:
    for member in plant.members.values():
        member.start()
    plant.until("Postgres", plant.server.ready)
    plant.server.bootstrap()
    plant.until("the broker", lambda: _broker_answers(plant))
    migrated = process.run(_own(plant.settings, plant.mark, "migrate", ("migrate",), {}).prepare())
    assert migrated.returncode == 0, migrated.stdout
    folder = plant.settings.models_dir / "tiny"
    save_pair(folder)
    with plant.database.transaction() as session:
        session.execute(text(points.TRIGGERS))
        datasets.create(session, "harmed", PROMPT)
        base, expert = str(folder / "base"), str(folder / "expert")
        models.add(session, plant.settings, name="tiny", base=base, expert=expert)
    plant.members["starter"] = _own(plant.settings, plant.mark, "starter", ("starter",), {})
    plant.members["starter"].start()
    plant.until("the starter", _socket(plant.settings).exists)
    for name, arguments in OURS.items():
        plant.add(name, *arguments)
    threading.Thread(target=plant.keep, name="keeper", daemon=True).start()
    plant.until("the first job", lambda: plant._has_ended(_first(plant)), PATIENCE)


def _broker_answers(plant: Plant) -> bool:
    if plant.rabbit:
        return plant.rabbit.ready()
    return listens(urlsplit(plant.settings.broker_url).port or 0)


def _first(plant: Plant) -> uuid.UUID:
    if not plant.accepted:
        plant.accepted.add(plant.submit())
    return next(iter(plant.accepted))


def _marking(prepare: Callable[[], Command], mark: str) -> Callable[[], Command]:
    def marked() -> Command:
        command = prepare()
        return replace(command, env={**command.env, MARK: mark})

    return marked


def _socket(settings: Settings) -> Path:
    return settings.home / "starter"


def _own(
    settings: Settings,
    mark: str,
    name: str,
    arguments: tuple[str, ...],
    environment: dict[str, str],
) -> Member:
    """`factory <arguments>` with these settings."""
    given = settings.model_dump(include=settings.model_fields_set)
    told = {f"FACTORY_{key.upper()}": str(value) for key, value in given.items()}
    told |= {MARK: mark, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd(), **environment}
    argv: tuple[str, ...] = (sys.executable, "-m", "factory", *arguments)
    if arguments[0] == "worker":
        argv = (*worker_command(arguments[1], settings), "--hostname", f"{name}@%h")
    elif arguments[0] == "starter":
        argv = (sys.executable, "-m", "tests.faults.starter", str(_socket(settings)))
    command = Command(name, argv, told, Path.cwd(), None, signal.SIGTERM)
    return Member(name, lambda: command, settings.home / "logs" / f"{name}.log")
