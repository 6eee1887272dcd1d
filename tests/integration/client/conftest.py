"""A real factory without workers: the application on a port, real Postgres, real Redis."""

import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from factory import jobs, requests, samples, shards, tokens
from factory.cli.app import run
from factory.client import Client
from factory.db import Database
from factory.errors import FactoryError
from factory.local import home
from factory.samples import Made, MadeBy
from factory.settings import Settings
from factory.spec import ReviewSpec
from workers import embedding
from workers.evaluate import Evaluator


@pytest.fixture(scope="module")
def settings(
    postgres_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """Settings of the application. Answers of workers are not waited for by the server."""
    return Settings(
        home=tmp_path_factory.mktemp("home"),
        database_url=postgres_url,
        broker_url=redis_url,
        request_wait_seconds=0,
    )


@pytest.fixture(scope="module")
def database(settings: Settings) -> Iterator[Database]:
    """The application's database."""
    found = Database(settings.database_url)
    yield found
    found.close()


@pytest.fixture(scope="module")
def token(database: Database) -> str:
    """A live API token."""
    with database.transaction() as session:
        return tokens.create(session, "tests")[1]


@pytest.fixture(scope="module")
def url(settings: Settings, token: str) -> Iterator[str]:
    """Where `factory serve` serves the application."""
    port = home.free_port()
    environment = {
        "FACTORY_HOME": str(settings.home),
        "FACTORY_DATABASE_URL": settings.database_url,
        "FACTORY_BROKER_URL": settings.broker_url,
        "FACTORY_REQUEST_WAIT_SECONDS": str(settings.request_wait_seconds),
        "FACTORY_PORT": str(port),
    }
    found = f"http://127.0.0.1:{port}"
    with (settings.home / "web.log").open("wb") as log:
        command = [sys.executable, "-m", "factory", "serve"]
        server = subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log)
        with Client(found, token, retries=8) as waiting:
            list(waiting.models())
        yield found
        server.terminate()
        assert server.wait(timeout=15) == 0


@pytest.fixture
def command_line(url: str, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`factory …` in an empty folder, knowing where the application is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACTORY_URL", url)
    monkeypatch.setenv("FACTORY_TOKEN", token)


@pytest.fixture
def name(command_line: None) -> str:
    """A fresh dataset's name, with the dataset."""
    found = f"set-{uuid.uuid4().hex[:12]}"
    assert run(["dataset", "create", found, "--prompt", "Prompt:"]) == 0
    return found


@pytest.fixture(scope="module")
def client(url: str, token: str) -> Iterator[Client]:
    """A client of the application."""
    with Client(url, token) as connected:
        yield connected


@pytest.fixture(scope="module")
def model(client: Client, settings: Settings) -> str:
    """The name of a model pair. Its files are never loaded: no worker runs."""
    folder = model_folder(settings)
    return str(client.add_model("pair", str(folder), str(folder))["name"])


def model_folder(settings: Settings) -> Path:
    """A folder that looks like a model."""
    folder = settings.models_dir / "pair"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").touch()
    return folder


class Worker:
    """Does by hand what a GPU worker does, without a model: texts and answers are given."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def make(self, job_id: str, texts: Sequence[str]) -> None:
        """Work on a job's only shard to its end."""
        with self._database.transaction() as session:
            job = jobs.get(session, uuid.UUID(job_id))
            (shard,) = jobs.shards_of(session, job.id)
            lease = shards.claim(session, shard.id, "by hand", 60)
            assert lease is not None
            attempt = shards.begin_attempt(session, lease, "by hand", {"device": "none"})
            rows = [
                Made(ordinal, ordinal, text, (1, 2), "eos", audit=False)
                for ordinal, text in enumerate(texts)
            ]
            by = MadeBy(job.dataset_id, job.id, shard.id, attempt)
            samples.store(session, by, rows, ReviewSpec(push=False))
            shards.finish(session, lease)
            jobs.finish_if_done(session, job.id)

    @contextmanager
    def answering(self, result: dict[str, Any] | FactoryError) -> Iterator[None]:
        """Answer every interactive request with this while the block runs."""
        over = threading.Event()

        def serve() -> None:
            while not over.wait(0.05):
                self._answer(result)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _answer(self, result: dict[str, Any] | FactoryError) -> None:
        with self._database.transaction() as session:
            for request_id in requests.pending(session):
                request = requests.waiting(session, request_id)
                if request is None:
                    continue
                if isinstance(result, FactoryError):
                    requests.refuse(session, request, result)
                else:
                    requests.answer(session, request, result)


@pytest.fixture(scope="module")
def worker(database: Database) -> Worker:
    """A worker without a model."""
    return Worker(database)


@pytest.fixture(scope="module")
def evaluator(settings: Settings, database: Database) -> Evaluator:
    """A real worker of evaluate jobs."""
    return Evaluator(settings, database, embedder=lambda: embedding.load(settings))


@contextmanager
def working(evaluator: Evaluator, client: Client, dataset: str) -> Iterator[None]:
    """Work on the dataset's pending jobs while the block runs."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.05):
            for job in client.jobs(dataset=dataset, state="pending"):
                for shard in client.shards(job["id"]):
                    evaluator.run_shard(uuid.UUID(shard["id"]))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
