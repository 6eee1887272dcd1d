"""The processes of a factory: up, demo, serve, worker, beat, migrate; and the doctor."""

import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import click
from rich.text import Text

from factory import log
from factory.cli.command import FAILED, Command, wanted
from factory.cli.connect import load_settings, require
from factory.cli.output import answer, print_json, table
from factory.errors import FactoryError, Unavailable
from factory.settings import Settings

KINDS = ("gpu", "cpu")  # of workers; each reads the queue of its name
CHILDREN = {"gpu": 1, "cpu": 4}  # long CPU tasks leave a child for the short ones


@click.command("up", cls=Command, examples=["factory up", "factory up --json"])
@click.option("--review/--no-review", default=True, help="With Label Studio, or without.")
def up(review: bool) -> None:
    """Start the whole factory on this machine and stay until Ctrl-C.

    Postgres, Redis and Label Studio are embedded, unless their addresses are set. With --json,
    one line tells when all is ready, and where.
    """
    from factory.local.up import run_up

    settings = load_settings()
    log.configure(settings.log_level)
    run_up(settings, wanted().json, review=review)


@click.command("demo", cls=Command, examples=["factory demo", "factory demo --json"])
def demo() -> None:
    """Show the whole loop once: train, generate, review, repeat.

    Uses the factory that runs here, or starts one and stops it at the end. The last line on
    stdout is one JSON object with what came out.
    """
    from factory.local.demo.run import run_demo

    settings = load_settings()
    log.configure("ERROR")
    run_demo(settings, table=not wanted().json)


@click.command("serve", cls=Command, examples=["FACTORY_PORT=8000 factory serve"])
def serve() -> None:
    """Serve the API and the dashboard."""
    from factory.web.serve import serve as serve_web

    settings = load_settings()
    require(settings, "database_url", "broker_url")
    _tell({"started": "web", "pid": os.getpid()})
    serve_web(settings)


@click.command(
    "worker",
    cls=Command,
    examples=["factory worker gpu", "FACTORY_DEVICE=cuda:1 factory worker gpu"],
)
@click.argument("kind", type=click.Choice(KINDS))
def worker(kind: str) -> None:
    """Run a worker: 'gpu' makes samples, 'cpu' does all else.

    'gpu' makes samples and trains on one device (FACTORY_DEVICE), or on the CPU where there is
    none: start one for each device. 'cpu' embeds texts and talks to Label Studio.
    """
    settings = load_settings()
    require(settings, "database_url", "broker_url")
    _tell({"started": f"{kind}-worker", "pid": os.getpid()})
    command = worker_command(kind, settings)
    os.execv(command[0], command)


@click.command("beat", cls=Command, examples=["factory beat"])
def beat() -> None:
    """Keep work moving: wake workers, free what dead ones held.

    Publishes owed wake-ups, returns shards whose lease ran out, and has reviews compared with
    Label Studio from time to time. Any number of these may run.
    """
    from factory.beat import run

    settings = load_settings()
    require(settings, "database_url", "broker_url")
    log.configure(settings.log_level)
    _tell({"started": "beat", "pid": os.getpid()})
    run(settings)


@click.command("migrate", cls=Command, examples=["factory migrate"])
def migrate() -> None:
    """Bring the tables of FACTORY_DATABASE_URL up to date."""
    settings = load_settings()
    require(settings, "database_url")
    log.configure(settings.log_level)
    version = _migrate(settings)
    answer({"version": version}, f"The database is at migration {version}.")


@click.command("doctor", cls=Command, examples=["factory doctor", "factory doctor --deep --json"])
@click.option("--deep", is_flag=True, help="Check every row of the database instead.")
def doctor(deep: bool) -> int:
    """Look for what is missing on this machine, and say how to mend it.

    With --deep, check that no job, sample or verdict was lost or doubled, in the database and in
    Label Studio, and name each row that is wrong. Exits with 1 when something is.
    """
    from factory.local.doctor import checks

    if deep:
        return _deep(load_settings())
    found = checks(load_settings())
    rows = [
        (Text("ok", "green") if each.ok else Text("MISSING", "red"), each.name, each.detail)
        for each in found
    ]
    mends = [Text(f"{each.name}: {each.mend}") for each in found if not each.ok]
    answer(
        {"ok": not mends, "checks": [asdict(each) for each in found]},
        table(("", "what", "found"), rows),
        *([Text("\nHow to mend it:", "bold"), *mends] if mends else []),
    )
    return FAILED if mends else 0


def _deep(settings: Settings) -> int:
    from factory.local.deep import examine

    found = examine(settings)
    wrong = [(each.invariant, each.row, each.detail) for each in found.violations]
    answer(
        {"ok": not wrong, **asdict(found)},
        table(("", "row", "what is wrong"), wrong) if wrong else Text("Nothing is wrong.", "green"),
        *(Text(f"Not checked: {reason}", "yellow") for reason in found.unchecked),
    )
    return FAILED if wrong else 0


@click.command("backup", cls=Command, examples=["factory backup factory-monday.tar"])
@click.argument("file", type=click.Path(path_type=Path))
def backup(file: Path) -> None:
    """Write the database and the models trained here to one file, while all goes on.

    Label Studio's data and models of FACTORY_MODEL_ROOTS are not in it.
    """
    from factory.local import backup as backups

    written = backups.backup(load_settings(), file)
    outside = [Text(f"Not in it: {place}", "yellow") for place in written.elsewhere]
    answer({"file": str(file), **asdict(written)}, f"Written to {file}.", *outside)


@click.command("restore", cls=Command, examples=["factory restore factory-monday.tar"])
@click.argument("file", type=click.Path(path_type=Path))
def restore(file: Path) -> None:
    """Put a backup into an empty factory that does not run.

    It goes into FACTORY_DATABASE_URL, or into the embedded database of FACTORY_HOME.
    """
    from factory.local import backup as backups

    settings = load_settings()
    read = backups.restore(settings, file)
    then = "`factory migrate`, then start it" if settings.database_url else "`factory up`"
    answer({"file": str(file), **asdict(read)}, f"Restored from {read.created_at}. Next: {then}.")


COMMANDS = (demo, up, doctor, serve, worker, beat, migrate, backup, restore)


def worker_command(kind: str, settings: Settings) -> list[str]:
    """The Celery command line of a worker of this kind."""
    return [
        *(sys.executable, "-m", "celery", "--app", f"workers.{kind}", "--quiet", "worker"),
        *("--queues", kind),
        *("--hostname", f"{kind}-{os.getpid()}@%h"),
        *("--pool", "prefork", "--concurrency", str(CHILDREN[kind])),
        *("--pool-start-method", "spawn" if kind == "gpu" and _may_use_cuda(settings) else "fork"),
        *("--loglevel", settings.log_level),
        *("--without-gossip", "--without-mingle"),
    ]


def _may_use_cuda(settings: Settings) -> bool:
    """Whether a worker's child may touch CUDA, which cannot be used after a fork."""
    if settings.device == "auto":
        return shutil.which("nvidia-smi") is not None
    return settings.device.startswith("cuda")


def _tell(started: dict[str, object]) -> None:
    """With --json, say what is being started; it then runs under this pid."""
    if wanted().json:
        print_json(started)


def _migrate(settings: Settings) -> str:
    """Upgrade to the newest migration; returns its name.

    Raises Unavailable when the database cannot be reached, FactoryError when it refuses.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from sqlalchemy.exc import OperationalError, SQLAlchemyError

    from factory.db import Database

    database = Database(settings.database_url)
    try:
        database.ping()
    finally:
        database.close()
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[2] / "migrations"))
    try:
        command.upgrade(config, "head")
    except OperationalError as error:
        raise Unavailable(f"The database does not answer: {error.orig}") from error
    except SQLAlchemyError as error:
        raise FactoryError(f"The database could not be migrated: {error}") from error
    return str(ScriptDirectory.from_config(config).get_current_head())
