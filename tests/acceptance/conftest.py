"""A real Label Studio server, started once per run when first asked for (about a minute)."""

import signal
import time
from collections.abc import Iterator

import pytest

from factory.local import home, label_studio, process


@pytest.fixture(scope="session")
def label_studio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[label_studio.Server]:
    """One real Label Studio for the whole run, in its own venv (installed where missing)."""
    folder = tmp_path_factory.mktemp("label-studio")
    venv = label_studio.default_venv()
    label_studio.ensure_venv(venv, folder / "install.log")
    server = label_studio.Server(
        folder / "data", venv, home.free_port(), password="a-test-password", token="t" * 40
    )
    child = process.launch(server.prepare(), folder / "server.log")
    try:
        deadline = time.monotonic() + 300
        while not server.ready():
            assert child.poll() is None, process.tail(folder / "server.log")
            assert time.monotonic() < deadline, process.tail(folder / "server.log")
            time.sleep(0.5)
        yield server
    finally:
        process.end(child, signal.SIGTERM, grace=10)
