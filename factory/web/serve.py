"""Serves the application with gunicorn: one process, and threads for its requests."""

import gc
from pathlib import Path
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]

from factory import log, tokens
from factory.db import Database
from factory.settings import Settings
from factory.web import create_app
from factory.web.state import THREADS

GRACE_SECONDS = 5  # for running requests when it is told to stop
MEMORY = Path("/dev/shm")  # noqa: S108


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Raises Unavailable when the database does not answer."""
    log.configure(settings.log_level)
    _ensure_token(settings)
    _Server(settings).run()


def settle() -> None:
    """Exempt what has been made so far from garbage collection, which would go through all of it
    while somebody waits (some 100 ms, every few large pages)."""
    gc.collect()
    gc.freeze()


def _ensure_token(settings: Settings) -> None:
    """Make sure that the token of the settings, if there is one, is known."""
    if not settings.token:
        return
    db = Database(settings.database_url)
    with db.transaction() as session:
        tokens.ensure(session, "FACTORY_TOKEN", settings.token)
    db.close()


class _Server(BaseApplication):  # type: ignore[misc]
    """Gunicorn with our settings; the application is made in the worker process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        super().__init__()

    def load_config(self) -> None:
        options: dict[str, Any] = {
            "bind": f"{self._settings.host}:{self._settings.port}",
            "worker_class": "gthread",
            "workers": 1,  # metrics and the cap on waiting requests are per process
            "threads": THREADS,
            "graceful_timeout": GRACE_SECONDS,
            "timeout": 60,
            "keepalive": 5,
            "worker_tmp_dir": str(MEMORY) if MEMORY.is_dir() else None,
            "control_socket_disable": True,  # it would lie in the current folder
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Flask:
        app = create_app(self._settings)
        settle()
        return app
