"""A real Postgres, migrated, and a real Redis, for tools that run outside pytest."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from factory.local import home, postgres, redis
from factory.settings import Settings

REPOSITORY = Path(__file__).parents[1]


@contextmanager
def running(*, keep: Path | None = None, **more: Any) -> Iterator[Settings]:
    """Both servers until the block ends, as settings. keep: a folder whose database stays for
    the next time; else all is gone at the end."""
    with tempfile.TemporaryDirectory(prefix="factory-stores-") as name:
        folder = keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)
        database = postgres.Server(
            folder / "postgres", home.free_port(), password="stores", durable=False
        )
        broker = redis.Server(folder / "redis", home.free_port(), password="stores")
        with database.running(folder / "postgres.log"), broker.running(folder / "redis.log"):
            migrate(database.url())
            yield Settings(
                home=folder / "home",
                database_url=database.url(),
                broker_url=broker.url(),
                secret_key="0" * 64,
                **more,
            )


def migrate(url: str) -> None:
    """Bring a database to the newest migration. Raises CalledProcessError with what it said."""
    subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=REPOSITORY,
        env={**os.environ, "FACTORY_DATABASE_URL": url},
        check=True,
        capture_output=True,
        text=True,
    )
