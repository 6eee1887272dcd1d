"""The migrations, on a real database: up, down, up, and the same as the tables say."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from factory.tables import Base

REPOSITORY = Path(__file__).parents[3]
SAMPLE = (
    "INSERT INTO samples (id, dataset_id, origin, state, text, text_sha256) "
    "VALUES (gen_random_uuid(), %s, 'real', 'accepted', 'a b', 'x') RETURNING id"
)
DATASET = (
    "INSERT INTO datasets (id, name, prompt) VALUES (gen_random_uuid(), 'd', 'p') RETURNING id"
)


@pytest.fixture
def alembic(empty_postgres_url: str) -> Callable[..., str]:
    def run(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "alembic", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "FACTORY_DATABASE_URL": empty_postgres_url},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def connection(empty_postgres_url: str) -> psycopg.Connection:
    return psycopg.connect(empty_postgres_url.replace("+psycopg", ""), autocommit=True)


def tables(connection: psycopg.Connection) -> set[str]:
    rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {name for (name,) in rows}


def functions(connection: psycopg.Connection) -> set[str]:
    rows = connection.execute("SELECT proname FROM pg_proc WHERE proname = 'keep_samples'")
    return {name for (name,) in rows}


def test_up_down_up(alembic: Callable[..., str], connection: psycopg.Connection) -> None:
    with connection:
        alembic("upgrade", "head")
        assert tables(connection) == {*Base.metadata.tables, "alembic_version"}
        alembic("downgrade", "base")
        assert tables(connection) == {"alembic_version"}
        assert not functions(connection)
        alembic("upgrade", "head")
        assert tables(connection) == {*Base.metadata.tables, "alembic_version"}
        assert "No new upgrade operations" in alembic("check")


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM samples",
        "UPDATE samples SET text = 'other'",
        "UPDATE samples SET token_ids = '{1}'",
        "UPDATE samples SET seed = 1",
    ],
)
def test_a_sample_stays_as_it_was_made(postgres_url: str, statement: str) -> None:
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        dataset = connection.execute(DATASET).fetchone()
        assert dataset is not None
        connection.execute(SAMPLE, dataset)
        connection.execute("UPDATE samples SET state = 'filtered', text = text, label = 'x'")
        with pytest.raises(psycopg.errors.RaiseException, match="is kept as it was made"):
            connection.execute(statement)
        connection.rollback()


def test_rows_that_were_there_before_are_counted(
    alembic: Callable[..., str], connection: psycopg.Connection
) -> None:
    with connection:
        alembic("upgrade", "0002")
        dataset = connection.execute(DATASET).fetchone()
        connection.execute(SAMPLE, dataset)
        alembic("upgrade", "head")
        counted = connection.execute("SELECT dataset_id, facts, number FROM tallies").fetchall()
    facts = {"origin": "real", "state": "accepted", "audit": False}
    assert counted == [(*(dataset or ()), facts, 1)]
