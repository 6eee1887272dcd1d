"""The way to Label Studio and back with every part real: Postgres, our web application with its
webhook, Label Studio. The CPU worker's tasks are called as Celery would call them."""

import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy import select
from werkzeug.serving import make_server

from factory import datasets, jobs, models, outbox, reviews, samples, shards
from factory.db import Database
from factory.dispatch import celery_app
from factory.local import home, label_studio
from factory.settings import Settings
from factory.spec import GenerateSpec
from factory.tables import Dataset, Outbox, Push, Review, Sample, WebhookEvent
from factory.web import create_app
from workers.decoding.records import Trace
from workers.labelstudio.client import Client, connect
from workers.parent import ParentDatabase
from workers.process import Worker


@dataclass(frozen=True)
class Factory:
    """What the tests hold: our database, our worker, and Label Studio's API."""

    database: Database
    settings: Settings
    cpu: Any
    client: Client

    def make(self, *texts: str) -> "Made":
        """A dataset with a generate job whose samples wait to be pushed."""
        name = f"d-{uuid.uuid4().hex}"
        with self.database.transaction() as session:
            dataset = datasets.create(session, name, "Write <b>a</b> hypothesis: $text & more")
            pair = models.get(session, "pair")
            spec = GenerateSpec(kind="generate", dataset=name, model="pair", count=len(texts))
            job, _ = jobs.submit(session, spec, dataset, pair, request=name)
            shard = jobs.shards_of(session, job.id)[0]
            lease = shards.claim(session, shard.id, "test", 60)
            assert lease is not None
            attempt = shards.begin_attempt(session, lease, "test", {"device": "cpu"})
            by = samples.MadeBy(dataset.id, job.id, shard.id, attempt)
            rows = [_made(ordinal, text) for ordinal, text in enumerate(texts)]
            samples.store(session, by, rows, spec.review)
            made = samples.list_page(session, dataset.id, job_id=job.id)
            ids = {row.text: row.id for row in made}
        return Made(self, dataset.id, job.id, [ids[text] for text in texts])

    def handle_events(self) -> None:
        """What Celery does for the wake-ups that the webhook has left."""
        with self.database.transaction() as session:
            owed = session.scalars(select(Outbox.key).where(Outbox.task == outbox.HANDLE_EVENT))
            events = owed.all()
        for event_id in events:
            self.cpu.handle_event(event_id)

    def events(self) -> int:
        """How many webhook events have been stored so far."""
        with self.database.transaction() as session:
            return len(session.scalars(select(WebhookEvent.id)).all())


@dataclass(frozen=True)
class Made:
    """A dataset with its samples."""

    factory: Factory
    id: uuid.UUID
    job: uuid.UUID
    samples: list[uuid.UUID]

    @property
    def project(self) -> int:
        with self.factory.database.transaction() as session:
            project = session.scalar(select(Push.project_id).where(Push.dataset_id == self.id))
        assert project is not None
        return project

    @property
    def current_project(self) -> int:
        """The dataset's own, where samples of earlier ones are left."""
        with self.factory.database.transaction() as session:
            project = session.get_one(Dataset, self.id).label_studio_project
        assert project is not None
        return project

    def push(self) -> None:
        self.factory.cpu.push(self.id)

    def reconcile(self) -> None:
        with self.factory.database.transaction() as session:
            outbox.owe(session, outbox.RECONCILE, self.id)
        self.factory.cpu.reconcile(self.id)

    def owed(self, task: str) -> bool:
        with self.factory.database.transaction() as session:
            return outbox.version(session, task, self.id) is not None

    def task(self, sample: int) -> int:
        with self.factory.database.transaction() as session:
            push = session.get_one(Push, self.samples[sample])
        assert push.task_id is not None
        return push.task_id

    def push_error(self, sample: int) -> str | None:
        with self.factory.database.transaction() as session:
            return session.get_one(Push, self.samples[sample]).error

    def states(self) -> list[str]:
        with self.factory.database.transaction() as session:
            return [session.get_one(Sample, id_).state for id_ in self.samples]

    def reviews(self, sample: int) -> Sequence[Review]:
        """The sample's live reviews."""
        with self.factory.database.transaction() as session:
            found = reviews.of_sample(session, self.samples[sample])
            return [review for review in found if review.deleted_at is None]

    def corrections(self, sample: int) -> list[tuple[str, str]]:
        with self.factory.database.transaction() as session:
            made = select(Sample).where(Sample.corrects == self.samples[sample])
            return sorted((row.text, row.state) for row in session.scalars(made))

    def watermark(self) -> datetime:
        """Up to when (Label Studio's clock) every change is known."""
        with self.factory.database.transaction() as session:
            until = session.get_one(Dataset, self.id).reviews_until
        assert until is not None
        return until

    def forget_overlap(self) -> datetime:
        """Have the next reconcile look only at what changes from now on; returns since when."""
        ids = [self.task(sample) for sample in range(len(self.samples))]
        tasks = self.factory.client.tasks(self.project, ids)
        newest = max(task.updated_at for task in tasks)
        with self.factory.database.transaction() as session:
            session.get_one(Dataset, self.id).reviews_until = newest
        return newest

    def tasks(self) -> list[dict[str, Any]]:
        """The project's tasks as Label Studio lists them, oldest first."""
        listed = self.factory.client._api.tasks.list(project=self.project, fields="all")
        return sorted((task.dict() for task in listed), key=lambda task: task["id"])


def answer(name: str, kind: str = "choices", **value: Any) -> dict[str, Any]:
    return {"from_name": name, "to_name": "text", "type": kind, "value": value}


def said(verdict: str, *more: dict[str, Any]) -> list[dict[str, Any]]:
    return [answer("verdict", choices=[verdict]), *more]


def _made(ordinal: int, text: str) -> samples.Made:
    import numpy as np

    ids = np.array([1, 2], dtype=np.int32)
    half = np.log(np.array([0.25, 0.75], dtype=np.float32))
    trace = Trace(ids, half, None, None, None, half, ids, ids)
    return samples.Made(ordinal, ordinal, text, (1, 2), "eos", audit=False, trace=trace.to_bytes())


@pytest.fixture(scope="module")
def settings(
    postgres_url: str,
    label_studio_server: label_studio.Server,
    tmp_path_factory: pytest.TempPathFactory,
) -> Settings:
    port = home.free_port()
    return Settings(
        home=tmp_path_factory.mktemp("home"),
        database_url=postgres_url,
        broker_url="redis://127.0.0.1:1/0",  # never asked: wake-ups stay in the outbox
        label_studio_url=label_studio_server.url,
        label_studio_api_key=label_studio_server.token,
        webhook_secret="the-secret-of-the-webhook",
        port=port,
        url=f"http://127.0.0.1:{port}",
    )


@pytest.fixture(scope="module")
def web(settings: Settings) -> Iterator[None]:
    """Our web application on its port, so that Label Studio can tell it of verdicts."""
    server = make_server("127.0.0.1", settings.port, create_app(settings), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield
    server.shutdown()
    thread.join()


@pytest.fixture(scope="module")
def factory(settings: Settings, web: None) -> Iterator[Factory]:
    with pytest.MonkeyPatch.context() as environment:  # Celery's entry reads it when imported
        environment.setenv("FACTORY_DATABASE_URL", settings.database_url)
        environment.setenv("FACTORY_BROKER_URL", settings.broker_url)
        from workers.cpu import CpuWorker
    database = Database(settings.database_url)
    with database.transaction() as session:
        folder = settings.models_dir / "any"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").touch()
        models.add(session, settings, name="pair", base=str(folder), expert=str(folder))
    worker = Worker(
        "cpu", settings, database, ParentDatabase(settings.database_url), celery_app(settings)
    )
    yield Factory(database, settings, CpuWorker(worker), connect(settings))
    database.close()
