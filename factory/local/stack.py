"""The whole factory on one machine: servers, migrations, our own processes, in order.

    Postgres → migrations → Redis → web → GPU worker, CPU worker, beat
    Label Studio beside all that: its first start takes about a minute

A part whose address is set (FACTORY_DATABASE_URL, FACTORY_BROKER_URL,
FACTORY_LABEL_STUDIO_URL) is used as it is, and no embedded one is started.
"""

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import httpx

from factory import log, tokens
from factory.db import Database
from factory.errors import StackError, Unauthorized
from factory.local import home as homes
from factory.local import label_studio, postgres, process, redis, supervisor
from factory.local.process import Command
from factory.local.supervisor import Child, Event, Supervisor
from factory.settings import Settings

# Stopped in this order; seconds before what is left is killed. Together below 15.
STOPPING = (
    (("beat", "gpu-worker", "cpu-worker"), 6.0),
    (("web", "label-studio"), 3.0),
    (("redis",), 1.5),
    (("postgres",), 3.0),
)
WORKERS_STOP = 4.0  # seconds: in them they hand back what they hold, before they are killed

_log = log.get(__name__)


@dataclass(frozen=True)
class Addresses:
    """Where a running stack is reached, and with what."""

    url: str
    token: str
    label_studio_url: str
    label_studio_token: str
    label_studio_username: str
    label_studio_password: str
    database_url: str
    broker_url: str


class Stack:
    """The local stack of one FACTORY_HOME. `start` it, use `addresses`, `stop` it.

    `with Stack(settings) as stack:` does both. One stack per home: a second one is refused.
    """

    def __init__(
        self,
        settings: Settings,
        on_event: Callable[[Event], None] = lambda _: None,
        *,
        label_studio_venv: Path | None = None,
        review: bool = True,
    ) -> None:
        """`review=False` leaves Label Studio out."""
        self._settings = settings
        self._on_event = on_event
        self._venv = label_studio_venv or label_studio.default_venv()
        self._review = review
        self._held = ExitStack()
        self._supervisor: Supervisor | None = None
        self._reviewing: Future[None] | None = None

    def start(self) -> Addresses:
        """Bring everything up and return when all of it is ready.

        Raises `Conflict` when a stack runs in this home already, `StackError` when a part does
        not start; whatever had been started is stopped then.
        """
        addresses = self.begin()
        self.await_label_studio()
        return addresses

    def begin(self) -> Addresses:
        """Like `start`, but returns while Label Studio is still starting."""
        self.home = homes.open_home(self._settings.home)
        self._held.enter_context(homes.locked(self.home))
        try:
            self._begin()
        except BaseException:
            self.stop()
            raise
        return self.addresses

    def await_label_studio(self) -> None:
        """Wait until Label Studio is ready. Raises `StackError` when it does not start."""
        if self._reviewing is None:
            return
        try:
            self._reviewing.result()
        except BaseException:
            self.stop()
            raise
        self._reviewing = None

    def wait(self) -> None:
        """Block for ever: the caller's signal handlers end it."""
        while True:
            time.sleep(3600)

    def stop(self) -> None:
        """End every child, at most 15 seconds, and free the lock. Does nothing when stopped."""
        if self._supervisor is not None:
            self._supervisor.stop(STOPPING)
            self._supervisor = None
        self._held.close()

    def __enter__(self) -> "Stack":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pids(self) -> dict[str, int]:
        """The pid of each running child by name."""
        return self._supervisor.pids() if self._supervisor else {}

    def _begin(self) -> None:
        left = supervisor.clean_up(self.home)
        if left:
            self._note("cleaned up what a killed stack had left: " + ", ".join(left))
        self._secrets = homes.load_secrets(self.home)
        self._ports = homes.choose_ports(self.home, self._settings.port)
        self.addresses = self._plan_addresses()
        self._supervisor = Supervisor(self.home, self._on_event)
        self._start_review(self._supervisor)
        self._start_database(self._supervisor)
        self._migrate()
        self._ensure_token()
        self._start_broker(self._supervisor)
        self._start_own(self._supervisor)
        self._supervisor.publish(asdict(self.addresses))

    def _plan_addresses(self) -> Addresses:
        given, secrets = self._settings, self._secrets
        host = "127.0.0.1" if given.host in ("0.0.0.0", "::") else given.host  # noqa: S104
        here = Addresses(
            url=f"http://{host}:{self._ports.web}",
            token=given.token or secrets.token,
            label_studio_url="",
            label_studio_token="",
            label_studio_username="",
            label_studio_password="",
            database_url=given.database_url or self._postgres.url(),
            broker_url=given.broker_url or self._redis.url(),
        )
        if given.label_studio_url:
            url, key = given.label_studio_url, given.label_studio_api_key
            return replace(here, label_studio_url=url, label_studio_token=key)
        if not self._review:
            return here
        return replace(
            here,
            label_studio_url=self._label_studio.url,
            label_studio_token=secrets.label_studio_token,
            label_studio_username=label_studio.USERNAME,
            label_studio_password=secrets.label_studio_password,
        )

    @property
    def _postgres(self) -> postgres.Server:
        return postgres.Server(
            self.home.postgres, self._ports.postgres, self._secrets.postgres_password
        )

    @property
    def _redis(self) -> redis.Server:
        return redis.Server(self.home.redis, self._ports.redis, self._secrets.redis_password)

    @property
    def _label_studio(self) -> label_studio.Server:
        return label_studio.Server(
            self.home.label_studio,
            self._venv,
            self._ports.label_studio,
            self._secrets.label_studio_password,
            self._secrets.label_studio_token,
        )

    def _start_review(self, children: Supervisor) -> None:
        """Install (once) and start Label Studio in a thread beside all else."""
        if self._settings.label_studio_url or not self._review:
            return
        pool = ThreadPoolExecutor(1, thread_name_prefix="label-studio")
        self._reviewing = pool.submit(self._run_review, children)
        pool.shutdown(wait=False)

    def _run_review(self, children: Supervisor) -> None:
        server = self._label_studio
        if not label_studio.is_installed(self._venv):
            self._on_event(Event("label-studio", "installing", "once; it takes some minutes"))
            installation_log = self.home.logs / "label-studio-install.log"
            label_studio.ensure_venv(self._venv, installation_log, supervisor.mark(self.home))
        if server.is_new:
            self._on_event(Event("label-studio", "note", "its first start takes about a minute"))
        children.spawn(Child("label-studio", server.prepare, server.ready, patience=600))
        children.await_ready("label-studio")

    def _start_database(self, children: Supervisor) -> None:
        if self._settings.database_url:
            return
        server = self._postgres
        children.spawn(Child("postgres", server.prepare, server.ready))
        children.await_ready("postgres")
        server.bootstrap()

    def _start_broker(self, children: Supervisor) -> None:
        if self._settings.broker_url:
            return
        server = self._redis
        children.spawn(Child("redis", server.prepare, server.ready))
        children.await_ready("redis")

    def _migrate(self) -> None:
        started = time.monotonic()
        self._on_event(Event("migrations", "starting"))
        done = process.run(self._own("migrate"), timeout=3600)
        if done.returncode != 0:
            raise StackError(f"The database could not be migrated:\n{done.stdout.strip()}")
        self._on_event(Event("migrations", "ready", seconds=time.monotonic() - started))

    def _ensure_token(self) -> None:
        """A live API token of our own: the one kept in `secrets.json`, or a new one.

        FACTORY_TOKEN goes before it; the web process makes sure of that one itself.
        """
        if self._settings.token:
            return
        database = Database(self.addresses.database_url)
        try:
            with database.transaction() as session:
                tokens.verify(session, self._secrets.token)
        except Unauthorized:
            with database.transaction() as session:
                _, value = tokens.create(session, "local stack")
            self._secrets = replace(self._secrets, token=value)
            homes.write_json(self.home.secrets, asdict(self._secrets))
            self.addresses = replace(self.addresses, token=value)
        finally:
            database.close()

    def _start_own(self, children: Supervisor) -> None:
        children.spawn(Child("web", lambda: self._own("serve"), self._web_is_ready))
        children.spawn(Child("gpu-worker", lambda: self._own("worker", "gpu")))
        children.spawn(Child("cpu-worker", lambda: self._own("worker", "cpu")))
        children.spawn(Child("beat", lambda: self._own("beat")))
        children.await_ready("web")

    def _web_is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.addresses.url}/healthz", timeout=5).is_success
        except httpx.HTTPError:
            return False

    def _own(self, *arguments: str) -> Command:
        """A process of our own: `factory <arguments>` with this stack's settings."""
        return Command(
            name=" ".join(("factory", *arguments)),
            argv=(sys.executable, "-m", "factory", *arguments),
            env={**self._environment(), **supervisor.mark(self.home)},
            cwd=Path.cwd(),  # relative paths in the settings mean what they mean to the user
        )

    def _environment(self) -> dict[str, str]:
        given, secrets, addresses = self._settings, self._secrets, self.addresses
        chosen_key = given.secret_key if "secret_key" in given.model_fields_set else ""
        environment = {
            "FACTORY_HOME": str(self.home.root),
            "FACTORY_DATABASE_URL": addresses.database_url,
            "FACTORY_BROKER_URL": addresses.broker_url,
            "FACTORY_LABEL_STUDIO_URL": addresses.label_studio_url,
            "FACTORY_LABEL_STUDIO_API_KEY": addresses.label_studio_token,
            "FACTORY_WEBHOOK_SECRET": given.webhook_secret or secrets.webhook_secret,
            "FACTORY_SECRET_KEY": chosen_key or secrets.secret_key,
            "FACTORY_PORT": str(self._ports.web),
            "FACTORY_URL": addresses.url,
            "FACTORY_TOKEN": addresses.token,
            "FACTORY_STOP_SECONDS": str(min(given.stop_seconds, WORKERS_STOP)),
            "PYTHONUNBUFFERED": "1",
            # Each worker is one process of several on this machine: one thread unless told.
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        }
        if not given.model_hub_ids:
            environment["HF_HUB_OFFLINE"] = "1"
        return environment

    def _note(self, detail: str) -> None:
        _log.info("stack_note", detail=detail)
        self._on_event(Event("stack", "note", detail))
