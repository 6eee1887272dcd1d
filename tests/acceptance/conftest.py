"""What acceptance tests share, each started once per run when first asked for: a whole factory,
and the demo run on it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from factory.local import label_studio

from .running import RunningFactory, factory_up

DEMO_SECONDS = 1500.0  # on a slow machine that runs other tests beside it


@dataclass(frozen=True)
class Demo:
    """The demo's result, and all it printed."""

    result: dict[str, Any]
    printed: str

    def round(self, name: str) -> dict[str, Any]:
        return next(each for each in self.result["rounds"] if each["name"] == name)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Who needs the demo may be the first to, and wait for it."""
    for item in items:
        if "demo" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(2 * DEMO_SECONDS))


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
    done = running_factory.command("demo", timeout=DEMO_SECONDS)
    assert done.returncode == 0, done.stderr
    return Demo(json.loads(done.stdout.splitlines()[-1])["demo"], done.stdout)
