"""What every worker process starts from: its settings, its database, its Celery application.

Nothing connects here. The children's pool opens its first connection in the child that uses it;
threads of the parent have a ParentDatabase of their own.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from billiard import pool
from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from celery import Celery
from celery.signals import worker_init
from celery.worker.request import Request
from sqlalchemy.orm import Session

from factory import dispatch, jobs, log, shards
from factory import settings as settings_module
from factory.db import Database
from factory.errors import FactoryError, Invalid
from factory.settings import Settings
from workers import stopping, watchdog
from workers.parent import ParentDatabase
from workers.shard_worker import name_of

logger = log.get(__name__)

# Times 0.1 s that a child which ends waits until its parent has read what it did (30 s by default).
# Nothing hangs on that, and a parent that is ending itself need not read it any more.
FAREWELL = 10

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Worker:
    """One worker process, or the parent of its children. `shutdown` is set in a child that was
    told to stop, `ending` in a parent that ends its children by force."""

    kind: str
    settings: Settings
    database: Database  # of the children
    parents: ParentDatabase
    app: Celery
    shutdown: threading.Event = field(default_factory=threading.Event)
    ending: threading.Event = field(default_factory=threading.Event)

    def task(self, name: str) -> Callable[[Function], Function]:
        """Register a function as the Celery task of this name (see `factory.outbox`)."""

        def register(function: Function) -> Function:
            self.app.task(name=name)(stopping.heeding(self.shutdown, function))
            return function

        return register

    def shard_task(self, name: str) -> Callable[[Function], Function]:
        """The same for a task that leases shards: what a child holds that dies at it is freed by
        the parent, long before its lease runs out."""

        def register(function: Function) -> Function:
            heeding = stopping.heeding(self.shutdown, function)
            self.app.task(name=name, Request=self._request())(heeding)
            return function

        return register

    def _request(self) -> type[Request]:
        def free_shard_of(pid: int) -> None:
            if self.ending.is_set():  # what it held is taken back
                return
            self.parents.retrying(lambda s: self._free(s, name_of(self.kind, pid)))

        class ShardRequest(Request):  # type: ignore[misc]
            def on_failure(self, exc_info: ExceptionInfo, *args: Any, **kwargs: Any) -> None:
                error = getattr(exc_info.exception, "exc", exc_info.exception)
                if isinstance(error, WorkerLostError) and self.worker_pid:
                    freeing = threading.Thread(target=free_shard_of, args=(self.worker_pid,))
                    freeing.start()  # the parent's loop does not wait for the database
                super().on_failure(exc_info, *args, **kwargs)

        return ShardRequest

    def _free(self, session: Session, dead: str) -> None:
        """Logged in here, where no child is forked: logging has a lock as well."""
        concerned = shards.free(session, [dead], self.settings.shard_attempts)
        for job_id in concerned:
            jobs.finish_if_done(session, job_id)
        if concerned:
            logger.warning("child.died", worker=dead, freed=len(concerned))

    def watch_consumption(self, *tasks: str) -> None:
        """End this worker's parent when it no longer takes messages for these tasks."""
        watchdog.watch_consumption(self.parents, self.settings, tasks)

    def before_start(self, check: Callable[[Settings], None]) -> None:
        """Run `check` before any task; a FactoryError ends the worker with its reason."""

        def run(**_: Any) -> None:
            try:
                check(self.settings)
            except FactoryError as error:
                raise SystemExit(f"This worker cannot start. {error.detail}") from error

        worker_init.connect(run, weak=False)


def start(kind: str) -> Worker:
    """Build a worker of this kind from the process's environment. Raises Invalid when a setting is
    missing."""
    settings = settings_module.load()
    if not settings.database_url or not settings.broker_url:
        raise Invalid(
            "A worker needs FACTORY_DATABASE_URL and FACTORY_BROKER_URL. "
            "`factory up` starts workers that have both."
        )
    log.configure(settings.log_level)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every call to Label Studio
    parents = ParentDatabase(settings.database_url)
    app = dispatch.celery_app(settings)
    app.conf.worker_redirect_stdouts = False  # our log lines stay as they are
    pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = FAREWELL
    worker = Worker(kind, settings, Database(settings.database_url), parents, app)
    stopping.stop_in_time(kind, parents, settings.stop_seconds, worker.ending)
    return worker
