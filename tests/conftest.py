"""What tests share, each started when first asked for, once in each process that runs tests: a real
Postgres, a real Redis and a real Label Studio (about a minute)."""

import shutil
import signal
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import sql
from redis import Redis
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from factory.local import home, label_studio, postgres, process, redis
from tests import stores

REPOSITORY = Path(__file__).parents[1]
TEMPLATE = "migrated"
WITH_LABEL_STUDIO = ("tests/acceptance/", "tests/faults/test_review_rows.py")


class ByModule(LoadScopeScheduling):
    """Shares tests out by module, and keeps those of a whole factory in one process."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.split("::")[0]
        return "whole" if module.startswith(WITH_LABEL_STUDIO) else module


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of tests that share an id `-n` would run one: there must be none."""
    twice = [id_ for id_, count in Counter(item.nodeid for item in items).items() if count > 1]
    if twice:
        raise pytest.UsageError(f"Tests must not share an id: {', '.join(twice)}")


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByModule:
    """Who runs what (`pytest -n`)."""
    return ByModule(config, log)


@pytest.fixture(scope="session")
def service_folder() -> Iterator[Path]:
    """A folder that the servers' own account may pass through (pytest's own is private)."""
    folder = Path(tempfile.mkdtemp(prefix="factory-tests-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def postgres_server(service_folder: Path) -> Iterator[postgres.Server]:
    """One real Postgres with pgvector for the whole run."""
    server = postgres.Server(
        service_folder / "postgres", home.free_port(), password="test", durable=False
    )
    with server.running(service_folder / "postgres.log"):
        yield server


@pytest.fixture(scope="session")
def migrated_template(postgres_server: postgres.Server) -> str:
    """The name of a database at the newest migration, for others to be cloned from."""
    create_database(postgres_server, TEMPLATE, template=postgres.DATABASE)
    stores.migrate(postgres_server.url(TEMPLATE))
    return TEMPLATE


@pytest.fixture(scope="module")
def postgres_url(postgres_server: postgres.Server, migrated_template: str) -> Iterator[str]:
    """The address of a fresh migrated database, one per test module."""
    name = f"test_{uuid.uuid4().hex}"
    create_database(postgres_server, name, template=migrated_template)
    yield postgres_server.url(name)
    drop_database(postgres_server, name)


@pytest.fixture(scope="module")
def empty_postgres_url(postgres_server: postgres.Server) -> Iterator[str]:
    """The address of a fresh database with pgvector and no tables, one per test module."""
    name = f"test_{uuid.uuid4().hex}"
    create_database(postgres_server, name, template=postgres.DATABASE)
    yield postgres_server.url(name)
    drop_database(postgres_server, name)


@pytest.fixture(scope="session")
def redis_server(service_folder: Path) -> Iterator[redis.Server]:
    """One real Redis for the whole run."""
    server = redis.Server(service_folder / "redis", home.free_port(), password="test")
    with server.running(service_folder / "redis.log"):
        yield server


@pytest.fixture(scope="module")
def redis_url(redis_server: redis.Server) -> Iterator[str]:
    """The address of the broker, emptied after each test module."""
    yield redis_server.url()
    with Redis.from_url(redis_server.url()) as client:
        client.flushall()


@pytest.fixture(scope="session")
def label_studio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[label_studio.Server]:
    """One real Label Studio for the whole run, in its own venv (installed where missing)."""
    folder = tmp_path_factory.mktemp("label-studio")
    venv = label_studio.default_venv()
    label_studio.ensure_venv(venv, folder / "install.log")
    server = label_studio.Server(
        folder / "data", venv, home.free_port(), password="a-test-password", token="t" * 40
    )
    child = process.launch(server.prepare(), folder / "server.log")
    try:
        deadline = time.monotonic() + 300
        while not server.ready():
            assert child.poll() is None, process.tail(folder / "server.log")
            assert time.monotonic() < deadline, process.tail(folder / "server.log")
            time.sleep(0.5)
        yield server
    finally:
        process.end(child, signal.SIGTERM, grace=10)


def create_database(server: postgres.Server, name: str, template: str) -> None:
    """Clone a database, owned by the factory's role."""
    statement = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {}").format(
        sql.Identifier(name), sql.Identifier(postgres.ROLE), sql.Identifier(template)
    )
    with server.connect_as_admin() as connection:
        connection.execute(statement)


def drop_database(server: postgres.Server, name: str) -> None:
    """Drop a database, whoever is connected to it."""
    statement = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
    with server.connect_as_admin() as connection:
        connection.execute(statement)
