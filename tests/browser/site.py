"""The application on a real port, served from this process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from werkzeug.serving import WSGIRequestHandler, make_server

from factory.db import Database
from factory.local import home
from factory.settings import Settings
from factory.web import create_app
from factory.web.state import KEY


@dataclass(frozen=True)
class Site:
    """Where it is, and the database behind it."""

    url: str
    db: Database


class Quiet(WSGIRequestHandler):
    """Leaves the log to the application."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Say nothing."""


@contextmanager
def serving(settings: Settings) -> Iterator[Site]:
    """Serve until the block ends."""
    app = create_app(settings)
    server = make_server("127.0.0.1", home.free_port(), app, threaded=True, request_handler=Quiet)
    server.daemon_threads = True  # a browser keeps its connections open after its last page
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    db: Database = app.extensions[KEY].db
    try:
        yield Site(f"http://127.0.0.1:{server.port}", db)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        db.close()
