"""What acceptance tests share, each started once per run when first asked for: a real Label
Studio (about a minute), a whole factory, and the demo run on it."""

import json
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from factory.local import home, label_studio, process

from .running import RunningFactory, factory_up


@dataclass(frozen=True)
class Demo:
    """The demo's result, and all it printed."""

    result: dict[str, Any]
    printed: str

    def round(self, name: str) -> dict[str, Any]:
        return next(each for each in self.result["rounds"] if each["name"] == name)


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


@pytest.fixture(scope="session")
def running_factory(
    label_studio_server: label_studio.Server, service_folder: Path
) -> Iterator[RunningFactory]:
    """One whole factory for the run."""
    with factory_up(service_folder / "factory", label_studio_server) as running:
        yield running


@pytest.fixture(scope="session")
def demo(running_factory: RunningFactory) -> Demo:
    """What `factory demo` did on that factory."""
    done = running_factory.command("demo", timeout=900)
    assert done.returncode == 0, done.stderr
    return Demo(json.loads(done.stdout.splitlines()[-1])["demo"], done.stdout)
