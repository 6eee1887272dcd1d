"""A real application on a real database and broker, and a small dataset with one finished job."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from apiflask import APIFlask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from factory import datasets, jobs, models, samples, shards, tokens
from factory.db import Database
from factory.settings import Settings
from factory.spec import GenerateSpec
from factory.web import create_app
from factory.web.state import KEY

TOKEN = "sf_the-token-of-these-tests"
WEBHOOK_SECRET = "the-secret-of-the-webhook"
COUNT = 6  # samples of the finished job


class Api:
    """Calls the API with a token."""

    def __init__(self, client: FlaskClient, token: str = TOKEN) -> None:
        self._client = client
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def __call__(
        self, method: str, path: str, headers: dict[str, str] | None = None, **options: Any
    ) -> TestResponse:
        path = path if path.startswith(("/api", "/webhooks")) else f"/api/v1{path}"
        headers = {**self._headers, **(headers or {})}
        return self._client.open(path, method=method, headers=headers, **options)

    def get(self, path: str, **options: Any) -> TestResponse:
        return self("GET", path, **options)

    def post(self, path: str, **options: Any) -> TestResponse:
        return self("POST", path, **options)


@dataclass(frozen=True)
class Known:
    """What is in the database before a test."""

    dataset: str
    model: str
    job: uuid.UUID
    samples: tuple[uuid.UUID, ...]  # by ordinal


@pytest.fixture(scope="module")
def settings(
    postgres_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    roots = tmp_path_factory.mktemp("models")
    for name in ("base", "expert"):
        (roots / name).mkdir()
        (roots / name / "config.json").write_text("{}")
        (roots / name / "model.safetensors").write_bytes(b"")
    return Settings(
        home=tmp_path_factory.mktemp("home"),
        database_url=postgres_url,
        broker_url=redis_url,
        webhook_secret=WEBHOOK_SECRET,
        secret_key="0" * 64,
        model_roots=(roots,),
        request_wait_seconds=0,
        max_body_bytes=100_000,
    )


@pytest.fixture(scope="module")
def app(settings: Settings) -> Iterator[APIFlask]:
    app = create_app(settings)
    db: Database = app.extensions[KEY].db
    with db.transaction() as session:
        tokens.ensure(session, "tests", TOKEN)
    yield app
    db.close()


@pytest.fixture(scope="module")
def db(app: APIFlask) -> Database:
    return app.extensions[KEY].db


@pytest.fixture
def api(app: APIFlask) -> Api:
    return Api(app.test_client())


@pytest.fixture
def stranger(app: APIFlask) -> Api:
    """A caller without a token."""
    return Api(app.test_client(), token="")


@pytest.fixture
def dataset(db: Database) -> str:
    """The name of a fresh, empty dataset."""
    name = f"d-{uuid.uuid4().hex}"
    with db.transaction() as session:
        datasets.create(session, name, "Write a hypothesis:")
    return name


@pytest.fixture(scope="module")
def known(db: Database, settings: Settings) -> Known:
    """A dataset with a finished generate job: the first sample is empty, the last is audited."""
    folder = settings.model_roots[0]
    with db.transaction() as session:
        dataset = datasets.create(session, "known", "Write a hypothesis:")
        datasets.import_lines(session, dataset, [b'{"text": "a real one", "label": "x"}'])
        pair = models.add(
            session,
            settings,
            name="pair",
            base=str(folder / "base"),
            expert=str(folder / "expert"),
        )
        spec = GenerateSpec(kind="generate", dataset="known", model="pair", count=COUNT, seed=1)
        job, _ = jobs.submit(session, spec, dataset, pair, request={})
    return Known("known", "pair", job.id, _finish(db, job.id, spec))


def _finish(db: Database, job_id: uuid.UUID, spec: GenerateSpec) -> tuple[uuid.UUID, ...]:
    """Do a worker's part by hand, with the stages that workers use."""
    with db.transaction() as session:
        shard = jobs.shards_of(session, job_id)[0]
        lease = shards.claim(session, shard.id, "w1", 60)
        assert lease is not None
        attempt = shards.begin_attempt(session, lease, "w1", {"device": "cpu", "software": {}})
        job = jobs.get(session, job_id)
        by = samples.MadeBy(job.dataset_id, job_id, shard.id, attempt)
        rows = [
            samples.Made(i, i, f"text {i}" if i else "", (1, 2), "eos", audit=i == COUNT - 1)
            for i in range(COUNT)
        ]
        samples.store(session, by, rows, spec.review)
        shards.finish(session, lease)
        jobs.finish_if_done(session, job_id)
        made = samples.list_page(session, job.dataset_id, job_id=job_id)
        return tuple(row.id for row in sorted(made, key=lambda row: row.ordinal or 0))
