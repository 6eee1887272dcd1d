"""The dashboard on a real database and broker, seen through a browser-like client."""

import uuid
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from apiflask import APIFlask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from factory import datasets, jobs, samples, shards, tokens
from factory.db import Database
from factory.settings import Settings
from factory.spec import GenerateSpec
from factory.tables import Job, ModelPair
from factory.web import create_app
from factory.web.state import KEY

TOKEN = "sf_the-token-of-these-tests"
ORIGIN = "http://localhost"  # of Flask's test client


class Html(HTMLParser):
    """A page as a browser would read it: its tags with their attributes, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def by_id(self, id_: str) -> dict[str, str | None]:
        return next(attributes for _, attributes in self.tags if attributes.get("id") == id_)

    def links(self, part: str) -> list[str]:
        return [
            str(a["href"]) for tag, a in self.tags if tag == "a" and part in (a.get("href") or "")
        ]


class Visitor:
    """Goes through pages as a browser does: keeps cookies and says where it comes from."""

    def __init__(self, client: FlaskClient, origin: str | None = ORIGIN) -> None:
        self.client = client
        self._headers = {"Origin": origin} if origin else {}

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.client.get(path, headers={"Accept": "text/html"}, **options)

    def post(self, path: str, data: dict[str, Any] | None = None, **options: Any) -> TestResponse:
        return self.client.post(path, data=data or {}, headers=self._headers, **options)

    def log_in(self, token: str = TOKEN) -> "Visitor":
        assert self.post("/login", {"token": token}).status_code == 303
        return self


@pytest.fixture(scope="module")
def settings(
    postgres_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    return Settings(
        home=tmp_path_factory.mktemp("home"),
        database_url=postgres_url,
        broker_url=redis_url,
        secret_key="0" * 64,
        label_studio_url="http://label-studio.example",
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
def stranger(app: APIFlask) -> Visitor:
    """Somebody who has not signed in."""
    return Visitor(app.test_client())


@pytest.fixture
def visitor(stranger: Visitor) -> Visitor:
    """Somebody who has."""
    return stranger.log_in()


@pytest.fixture
def dataset(db: Database) -> str:
    """The name of a fresh dataset."""
    name = f"d-{uuid.uuid4().hex[:12]}"
    with db.transaction() as session:
        datasets.create(session, name, "Write a hypothesis:")
    return name


@pytest.fixture
def model(db: Database) -> str:
    """The name of a fresh model pair."""
    name = f"m-{uuid.uuid4().hex[:12]}"
    with db.transaction() as session:
        session.add(ModelPair(name=name, base="/models/base", expert="/models/expert"))
    return name


@pytest.fixture
def job(db: Database, dataset: str, model: str) -> uuid.UUID:
    """A fresh job of four samples in two shards, that nobody works on."""
    spec = GenerateSpec(
        kind="generate", dataset=dataset, model=model, count=4, seed=1, shard_size=2
    )
    with db.transaction() as session:
        pair = session.query(ModelPair).filter_by(name=model).one()
        made, _ = jobs.submit(session, spec, datasets.get(session, dataset), pair, request={})
        return made.id


@pytest.fixture
def made(db: Database, job: uuid.UUID) -> list[uuid.UUID]:
    """The samples of that job, by ordinal, all made."""
    return work_off(db, job, ["text 0", "text 1", "text 2", "text 3"])


def work_off(db: Database, job_id: uuid.UUID, texts: list[str]) -> list[uuid.UUID]:
    """Do a worker's part by hand, with the stages that workers use; returns the samples."""
    with db.transaction() as session:
        job = jobs.get(session, job_id)
        for shard in jobs.shards_of(session, job_id):
            lease = shards.claim(session, shard.id, "w1", 60)
            assert lease is not None
            attempt = shards.begin_attempt(session, lease, "w1", {"device": "cpu", "software": {}})
            by = samples.MadeBy(job.dataset_id, job_id, shard.id, attempt)
            rows = [
                samples.Made(n, n, texts[n], (1, 2), "eos", audit=False)
                for n in range(shard.start, shard.stop)
            ]
            samples.store(session, by, rows, GenerateSpec.model_validate(job.spec).review)
            shards.finish(session, lease)
        jobs.finish_if_done(session, job_id)
        found = samples.list_page(session, job.dataset_id, job_id=job_id)
        return [row.id for row in sorted(found, key=lambda row: row.ordinal or 0)]


def state_of(db: Database, job_id: uuid.UUID) -> str:
    with db.transaction() as session:
        return session.get_one(Job, job_id).state
