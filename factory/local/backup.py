"""`factory backup` and `factory restore`: one tar of the database and of the models trained here.

    backup.json     which factory wrote it, when, at which migration, and where its models lay
    database.dump   pg_dump's custom format
    models/…        FACTORY_HOME/models

What lies elsewhere is not in it: models of FACTORY_MODEL_ROOTS, and Label Studio's own data.
"""

import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen

from alembic.script import ScriptDirectory
from sqlalchemy import URL, func, make_url, select, text, update
from sqlalchemy.orm import Session

import factory
from factory.db import Database
from factory.errors import Conflict, FactoryError, Invalid, StackError
from factory.local import home as homes
from factory.local import postgres
from factory.local.doctor import with_running_stack
from factory.local.home import Home
from factory.settings import Settings
from factory.tables import Base, Dataset, ModelPair

HEADER, DUMP, MODELS = "backup.json", "database.dump", "models"
LEFT_OUT = (" EXTENSION ", " SCHEMA ")  # of the dump: they are the database owner's


@dataclass(frozen=True)
class Backup:
    """What a backup says of itself. `elsewhere`: models that are not in it."""

    version: str
    created_at: str
    migration: str
    models_dir: str
    elsewhere: tuple[str, ...] = ()


def backup(settings: Settings, file: Path) -> Backup:
    """Write a backup of the factory that the settings name, or that runs here, while it works.

    The file is there whole or not at all. Raises Invalid, Conflict or Unavailable, and
    FactoryError with pg_dump's words.
    """
    known = with_running_stack(settings, Home(settings.home))
    if not known.database_url:
        raise Invalid("No factory runs here. Start it, or set FACTORY_DATABASE_URL.")
    if file.exists():
        raise Conflict(f"{file} exists already. Give another name.")
    database = Database(known.database_url)
    try:
        with database.transaction() as session:
            header = _header(session, known)
    finally:
        database.close()
    try:
        with tempfile.TemporaryDirectory(dir=file.absolute().parent) as folder:
            _write(known, header, Path(folder))
            (Path(folder) / "backup.tar").rename(file)
    except OSError as error:
        raise FactoryError(f"{file} cannot be written: {error}") from error
    return header


def restore(settings: Settings, file: Path) -> Backup:
    """Put a backup into the database of the settings, or into the embedded one of a stack that
    does not run. Only an empty factory is restored into.

    Raises Invalid when the file is no backup, Conflict when the factory is not empty or runs.
    """
    with _opened(file) as tar:
        header = _read_header(tar, file)
        with _target(settings) as url, tempfile.TemporaryDirectory() as folder:
            _empty(url)
            tar.extract(DUMP, folder, filter="data")
            _load(url, Path(folder) / DUMP, Path(folder) / "contents")
            _extract_models(tar, settings)
            _move_models(url, header.models_dir, str(settings.models_dir))
    return header


def _header(session: Session, settings: Settings) -> Backup:
    migration = session.scalar(text("SELECT version_num FROM alembic_version"))
    places = [
        place for row in session.execute(select(ModelPair.base, ModelPair.expert)) for place in row
    ]
    return Backup(
        version=factory.__version__,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        migration=str(migration),
        models_dir=str(settings.models_dir),
        elsewhere=tuple(
            sorted({p for p in places if not Path(p).is_relative_to(settings.models_dir)})
        ),
    )


def _write(settings: Settings, header: Backup, folder: Path) -> None:
    """The database first: what it names is in the models' folder by then."""
    dump = folder / DUMP
    _run("pg_dump", settings.database_url, "--format=custom", "--no-owner", f"--file={dump}")
    (folder / HEADER).write_text(json.dumps(asdict(header)))
    with tarfile.open(folder / "backup.tar", "w") as tar:
        for name in (HEADER, DUMP):
            tar.add(folder / name, name)
        if settings.models_dir.is_dir():
            tar.add(settings.models_dir, MODELS)


@contextmanager
def _opened(file: Path) -> Iterator[tarfile.TarFile]:
    try:
        tar = tarfile.open(file)  # noqa: SIM115
    except (OSError, tarfile.TarError) as error:
        raise Invalid(f"{file} cannot be read as a backup: {error}") from error
    with tar:
        yield tar


def _read_header(tar: tarfile.TarFile, file: Path) -> Backup:
    try:
        content = tar.extractfile(HEADER)
        header = Backup(**json.loads(content.read() if content else b""))
    except (KeyError, ValueError, TypeError) as error:
        raise Invalid(
            f"{file} is no backup of a factory: {HEADER} is missing or broken."
        ) from error
    migrations = ScriptDirectory(str(Path(factory.__file__).parents[1] / "migrations"))
    if header.migration not in {script.revision for script in migrations.walk_revisions()}:
        raise Conflict(
            f"{file} was made by factory {header.version} (migration {header.migration}), which "
            f"{factory.__version__} does not know. Install that version, or a newer one."
        )
    return header


@contextmanager
def _target(settings: Settings) -> Iterator[str]:
    """The address of the database to fill: the embedded one runs for the block."""
    if settings.database_url:
        yield settings.database_url
        return
    home = homes.open_home(settings.home)
    with homes.locked(home):
        ports = homes.choose_ports(home, settings.port)
        secrets = homes.load_secrets(home)
        server = postgres.Server(home.postgres, ports.postgres, secrets.postgres_password)
        with server.running(home.logs / "postgres.log"):
            yield server.url()


def _empty(url: str) -> None:
    """Remove the tables of a factory that holds nothing. Raises Conflict when it holds datasets."""
    database = Database(url)
    try:
        with database.transaction() as session:
            session.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
            if session.scalar(text("SELECT to_regclass('datasets')")):
                held = session.scalar(select(func.count()).select_from(Dataset))
                if held:
                    raise Conflict(
                        f"This factory holds {held} datasets. Restore into an empty one: set "
                        "FACTORY_HOME to a new folder, or FACTORY_DATABASE_URL to a new database."
                    )
            Base.metadata.drop_all(session.connection())
            session.execute(text("DROP TABLE IF EXISTS alembic_version"))
            session.execute(text("DROP FUNCTION IF EXISTS keep_samples()"))
    finally:
        database.close()


def _load(url: str, dump: Path, contents: Path) -> None:
    listed = _run("pg_restore", "", "--list", str(dump)).splitlines()
    kept = [line for line in listed if not any(word in line for word in LEFT_OUT)]
    contents.write_text("\n".join(kept))
    options = ("--no-owner", "--exit-on-error", "--single-transaction")
    _run("pg_restore", url, *options, f"--use-list={contents}", str(dump))


def _extract_models(tar: tarfile.TarFile, settings: Settings) -> None:
    inside = [member for member in tar.getmembers() if member.name.startswith(f"{MODELS}/")]
    settings.models_dir.mkdir(parents=True, exist_ok=True)
    tar.extractall(settings.home, inside, filter="data")


def _move_models(url: str, before: str, now: str) -> None:
    """Model pairs name whole paths: those of the old home become those of this one."""
    database = Database(url)
    try:
        with database.transaction() as session:
            for column in (ModelPair.base, ModelPair.expert):
                moved = func.overlay(column, now, 1, len(before))
                inside = column.startswith(f"{before}/", autoescape=True)
                session.execute(update(ModelPair).where(inside).values({column: moved}))
    finally:
        database.close()


def _run(program: str, url: str, *arguments: str) -> str:
    """Run one of Postgres' programs on a database; returns what it printed on stdout.

    Raises FactoryError with its own words when it fails. The password is not in its arguments.
    """
    environment, argv = dict(os.environ), [str(_program(program)), *arguments]
    if url:
        address = make_url(url)
        environment["PGPASSWORD"] = address.password or ""
        argv.append(f"--dbname={_without_password(address)}")
    with Popen(argv, env=environment, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, text=True) as child:
        said, complaint = child.communicate()
    if child.returncode != 0:
        raise FactoryError(f"{program} failed:\n{complaint.strip()}")
    return said


def _without_password(address: URL) -> URL:
    """The address as Postgres' programs take it."""
    return URL.create(
        "postgresql",
        username=address.username,
        host=address.host,
        port=address.port,
        database=address.database,
        query=address.query,
    )


def _program(name: str) -> Path:
    """The embedded Postgres' own program, else one on the PATH: it must not be older than the
    server. Raises StackError when there is none."""
    try:
        return postgres.binaries() / name
    except StackError:
        found = shutil.which(name)
    if found is None:
        raise StackError(f"{name} is not installed. Install Postgres' client programs.")
    return Path(found)
