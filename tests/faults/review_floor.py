"""A factory's way to Label Studio that may be harmed: the web process, the beat and the CPU worker,
each a real process, in front of a real Label Studio, with a proxy that harms between them."""

import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import httpx
import numpy as np
from sqlalchemy import delete, func, select

from factory import datasets, jobs, models, outbox, samples, shards
from factory.cli.processes import worker_command
from factory.db import Database
from factory.local import deep, home, label_studio, postgres, process, redis
from factory.local.process import Command
from factory.settings import Settings
from factory.spec import GenerateSpec
from factory.tables import Push, Review, Sample, WebhookEvent
from workers.decoding.records import Trace
from workers.labelstudio.client import Client, connect

from .http_proxy import HttpProxy

TOKEN = "sf_the-token-of-the-review-faults"
PATIENCE = 90.0  # seconds until what must happen has not happened
FIRST_PAUSE = 0.25  # seconds
RECONCILE = 3600.0  # seconds: the rows ask for it
PARTS = ("web", "beat", "cpu")


@dataclass
class Floor:
    """The running processes, our database, and Label Studio reached past the proxy."""

    settings: Settings
    database: Database
    proxy: HttpProxy
    there: Client
    logs: Path
    children: dict[str, Popen[bytes]]

    def start(self, name: str) -> None:
        self.children[name] = process.launch(_command(self.settings, name), self.log(name))

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def kill(self, name: str) -> None:
        process.kill_group(self.children[name].pid)
        self.children[name].wait()

    def make(self, *texts: str) -> "Made":
        """A dataset with samples of a job, as a GPU worker stores them: they wait to be pushed."""
        name = f"d-{uuid.uuid4().hex}"
        with self.database.transaction() as session:
            dataset = datasets.create(session, name, "hypothesis:")
            pair = models.get(session, "pair")
            count = len(texts)
            spec = GenerateSpec(
                kind="generate", dataset=name, model="pair", count=count, shard_size=count
            )
            job, _ = jobs.submit(session, spec, dataset, pair, request=name)
            (shard,) = jobs.shards_of(session, job.id)
            lease = shards.claim(session, shard.id, "test", 60)
            assert lease is not None
            attempt = shards.begin_attempt(session, lease, "test", {"device": "cpu"})
            by = samples.MadeBy(dataset.id, job.id, shard.id, attempt)
            rows = [_made(ordinal, text) for ordinal, text in enumerate(texts)]
            samples.store(session, by, rows, spec.review)
            shards.finish(session, lease)
            jobs.finish_if_done(session, job.id)
            made = samples.list_page(session, dataset.id, job_id=job.id, limit=len(texts))
            ids = {row.text: row.id for row in made}
        return Made(self, dataset.id, [ids[text] for text in texts])

    def until(self, what: str, happened: Callable[[], bool], seconds: float = PATIENCE) -> float:
        """Wait; returns the seconds it took. Raises AssertionError with the ends of the logs."""
        start = time.monotonic()
        if not process.until(happened, seconds, 0.1):
            logs = [f"--- {name}\n{process.tail(self.log(name), 30)}" for name in PARTS]
            raise AssertionError("\n".join([f"{what}: not within {seconds:.0f} s", *logs]))
        return time.monotonic() - start

    def get(self, path: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return httpx.get(self.settings.url + path, headers=headers, timeout=10)

    def web_answers(self) -> bool:
        try:
            return self.get("/healthz").is_success
        except httpx.HTTPError:
            return False

    def tell(self, event: dict[str, Any], authorization: str | None = None) -> httpx.Response:
        """Send an event to our webhook; with the right secret unless another one is given."""
        right = f"Bearer {self.settings.webhook_secret}"
        headers = {"Authorization": right if authorization is None else authorization}
        url = f"{self.settings.url}/webhooks/label-studio"
        return httpx.post(url, json=event, headers=headers, timeout=10)

    def wrong(self, *made: "Made") -> list[str]:
        """What invariants E and F say about these samples, Label Studio reached past the proxy."""
        mine = {f"sample {id_}" for each in made for id_ in each.samples}
        direct = self.settings.model_copy(update={"label_studio_url": self.there_url})
        found = deep.examine(direct)
        assert found.unchecked == ()
        return [f"{v.invariant} {v.row} {v.detail}" for v in found.violations if v.row in mine]

    @property
    def there_url(self) -> str:
        return self.proxy.target

    def close(self) -> None:
        for child in self.children.values():
            process.kill_group(child.pid)
            child.wait()
        self.database.close()
        self.proxy.close()


@dataclass(frozen=True)
class Made:
    """A dataset with its samples."""

    floor: Floor
    id: uuid.UUID
    samples: Sequence[uuid.UUID]

    def pushes(self) -> list[Push]:
        with self.floor.database.transaction() as session:
            rows = session.scalars(select(Push).where(Push.sample_id.in_(self.samples)))
            found = {push.sample_id: push for push in rows}
        return [found[id_] for id_ in self.samples]

    @property
    def project(self) -> int:
        with self.floor.database.transaction() as session:
            project = session.get_one(datasets.Dataset, self.id).label_studio_project
        assert project is not None
        return project

    def task(self, sample: int) -> int:
        task = self.pushes()[sample].task_id
        assert task is not None
        return task

    def is_pushed(self) -> bool:
        return all(push.task_id is not None for push in self.pushes())

    def states(self) -> list[str]:
        with self.floor.database.transaction() as session:
            return [session.get_one(Sample, id_).state for id_ in self.samples]

    def reviews(self) -> int:
        """How many live reviews there are."""
        with self.floor.database.transaction() as session:
            live = Review.sample_id.in_(self.samples), Review.deleted_at.is_(None)
            return session.scalar(select(func.count()).where(*live)) or 0

    def reconcile(self) -> None:
        """Have it reconciled once, and wait for the end."""
        with self.floor.database.transaction() as session:
            outbox.owe(session, outbox.RECONCILE, self.id)
        self.floor.until("a reconcile", lambda: not self.owed(outbox.RECONCILE))

    def owed(self, task: str) -> bool:
        with self.floor.database.transaction() as session:
            return outbox.version(session, task, self.id) is not None

    def events(self, *, handled: bool = False) -> list[dict[str, Any]]:
        """The webhook events of its project, as they came."""
        mine = select(WebhookEvent.payload).where(WebhookEvent.project_id == self.project)
        if handled:
            mine = mine.where(WebhookEvent.handled_at.is_not(None))
        with self.floor.database.transaction() as session:
            return list(session.scalars(mine))

    def forget_events(self) -> None:
        """As they are some time after they were handled."""
        with self.floor.database.transaction() as session:
            session.execute(delete(WebhookEvent).where(WebhookEvent.project_id == self.project))

    def annotate(self, sample: int, verdict: str) -> int:
        """As a reviewer does, past the proxy; returns the annotation's id."""
        saved = self.floor.there._api.annotations.create(self.task(sample), result=said(verdict))
        return int(saved.id)


def said(verdict: str) -> list[dict[str, Any]]:
    value = {"choices": [verdict]}
    return [{"from_name": "verdict", "to_name": "text", "type": "choices", "value": value}]


def _made(ordinal: int, text: str) -> samples.Made:
    ids = np.array([1, 2], dtype=np.int32)
    half = np.log(np.array([0.25, 0.75], dtype=np.float32))
    trace = Trace(ids, half, None, None, None, half, ids, ids)
    return samples.Made(ordinal, ordinal, text, (1, 2), "eos", audit=False, trace=trace.to_bytes())


@contextmanager
def open_floor(
    folder: Path, server: label_studio.Server, database_url: str, broker_url: str
) -> Iterator[Floor]:
    """All of it in this folder, at work when the block begins, and gone when it ends."""
    root = home.open_home(folder / "home")
    proxy = HttpProxy(server.url)
    port = home.free_port()
    settings = Settings(
        home=root.root,
        database_url=database_url,
        broker_url=broker_url,
        label_studio_url=proxy.url,
        label_studio_api_key=server.token,
        label_studio_retry_seconds=FIRST_PAUSE,
        webhook_secret="the-secret-of-the-webhook",
        port=port,
        url=f"http://127.0.0.1:{port}",
        token=TOKEN,
        secret_key="0" * 64,
        outbox_retry_seconds=2,
        reconcile_seconds=RECONCILE,
    )
    direct = settings.model_copy(update={"label_studio_url": server.url})
    floor = Floor(settings, Database(database_url), proxy, connect(direct), root.logs, {})
    try:
        _add_pair(floor)
        for name in PARTS:
            floor.start(name)
        first = floor.make("the first")
        floor.until("the first push", first.is_pushed)
        yield floor
    finally:
        floor.close()


@contextmanager
def own_services(folder: Path) -> Iterator[tuple[label_studio.Server, str, str]]:
    """A Label Studio, a migrated Postgres and a Redis of one's own: (server, database, broker)."""
    folder.chmod(0o711)
    venv = label_studio.default_venv()
    label_studio.ensure_venv(venv, folder / "install.log")
    port = home.free_port()
    server = label_studio.Server(folder / "label-studio", venv, port, "a-password", "t" * 40)
    database = postgres.Server(folder / "postgres", home.free_port(), "test", durable=False)
    broker = redis.Server(folder / "redis", home.free_port(), "test")
    child = process.launch(server.prepare(), folder / "label-studio.log")
    try:
        with database.running(folder / "postgres.log"), broker.running(folder / "redis.log"):
            migrate = (sys.executable, "-m", "factory", "migrate")
            given = {"FACTORY_DATABASE_URL": database.url(), "FACTORY_HOME": str(folder / "home")}
            done = process.run(Command("migrate", migrate, given, Path.cwd()))
            assert done.returncode == 0, done.stdout
            assert process.until(server.ready, 300, 0.5), process.tail(folder / "label-studio.log")
            yield server, database.url(), broker.url()
    finally:
        process.kill_group(child.pid)
        child.wait()


def _add_pair(floor: Floor) -> None:
    folder = floor.settings.models_dir / "any"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").touch()
    with floor.database.transaction() as session:
        models.add(session, floor.settings, name="pair", base=str(folder), expert=str(folder))


def _command(settings: Settings, name: str) -> Command:
    given = settings.model_dump(include=settings.model_fields_set)
    environment = {f"FACTORY_{key.upper()}": str(value) for key, value in given.items()}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()}
    python = sys.executable
    argv = {
        "web": (python, "-m", "factory", "serve"),
        "beat": (python, "-m", "factory", "beat"),
        "cpu": tuple(worker_command("cpu", settings)),
    }
    return Command(name, argv[name], environment, Path.cwd())
