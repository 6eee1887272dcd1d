"""`factory up` for real: its addresses, its restarts, its end, and its crash."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from factory.local import process, supervisor
from factory.local.home import Home

STOP_WITHIN = 15  # seconds, promised to the user
CHILDREN = {"postgres", "redis", "web", "gpu-worker", "cpu-worker", "beat"}


@dataclass(frozen=True)
class Up:
    """A running `factory up --json`."""

    home: Home
    process: subprocess.Popen[str]
    addresses: dict[str, str]

    def state(self) -> dict:
        return json.loads(self.home.stack.read_text())

    def answers(self) -> bool:
        headers = {"Authorization": f"Bearer {self.addresses['token']}"}
        url = f"{self.addresses['url']}/api/v1/datasets"
        return httpx.get(url, headers=headers, timeout=30).status_code == 200


def environment(home: Path, **more: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FACTORY_")}
    return {**clean, "FACTORY_HOME": str(home), **more}


def factory(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    argv = (sys.executable, "-m", "factory", *arguments)
    return subprocess.run(
        argv, env=environment(home), capture_output=True, text=True, timeout=120, check=False
    )


@contextmanager
def up(home: Path, **more: str) -> Iterator[Up]:
    """A stack without Label Studio, which other tests start; stopped at the end of the block."""
    errors = home.with_suffix(".err")
    with (
        errors.open("ab") as stderr,
        subprocess.Popen(
            (sys.executable, "-m", "factory", "up", "--json", "--no-review"),
            env=environment(home, **more),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as running,
    ):
        try:
            line = running.stdout.readline()
            assert line, errors.read_text()
            yield Up(Home(home), running, json.loads(line))
        finally:
            running.terminate()
            running.wait(timeout=STOP_WITHIN)


@pytest.fixture
def folder(service_folder) -> Path:
    """Where the homes of these tests lie: Postgres' own account can get there."""
    made = service_folder / "up"
    made.mkdir(exist_ok=True)
    return made


def left(home: Home) -> list[str]:
    """What a stopped stack must not leave."""
    files = [str(path) for path in (home.lock, home.stack) if path.exists()]
    return files + [str(found) for found in supervisor.marked(home)]


def test_up_tells_where_it_is_survives_a_death_and_leaves_nothing(folder):
    with up(folder / "one") as stack:
        assert set(stack.addresses) == {
            *("url", "token", "label_studio_url", "label_studio_token"),
            *("database_url", "broker_url"),
        }
        assert stack.answers()
        assert set(stack.state()["children"]) == CHILDREN

        refused = factory("up", "--no-review", home=stack.home.root)
        assert refused.returncode == 4
        assert f"pid {stack.process.pid}" in refused.stderr

        os.kill(stack.state()["children"]["postgres"]["pid"], signal.SIGKILL)
        restarted = lambda: stack.state()["children"]["postgres"]["restarts"] == 1  # noqa: E731
        assert process.until(restarted, 20)
        assert process.until(stack.answers, 30, interval=0.5)

        checks = json.loads(factory("doctor", "--json", home=stack.home.root).stdout)["checks"]
        [found] = [check for check in checks if check["name"] == "Process postgres"]
        assert found["ok"]
        assert "SIGKILL" in found["detail"]
    assert stack.process.returncode == 0
    assert left(stack.home) == []


def test_a_killed_up_is_cleaned_up_by_the_next_which_finds_its_data(folder):
    with up(folder / "two") as first:
        first.process.kill()
        first.process.wait()
        orphans = supervisor.marked(first.home)
        assert orphans
    with up(folder / "two") as second:
        assert not any(orphan.is_running() for orphan in orphans)
        assert second.addresses == first.addresses
        assert second.answers()
    assert left(second.home) == []


def test_two_homes_run_side_by_side_and_one_can_use_the_others_servers(folder):
    with up(folder / "three") as one:
        servers = {
            "FACTORY_DATABASE_URL": one.addresses["database_url"],
            "FACTORY_BROKER_URL": one.addresses["broker_url"],
        }
        with up(folder / "four", **servers) as other:
            assert other.answers()
            assert one.answers()
            assert set(other.state()["children"]) == CHILDREN - {"postgres", "redis"}
        assert one.answers()
    assert left(one.home) == []
    assert left(other.home) == []


def test_an_up_that_is_interrupted_while_starting_leaves_nothing(folder):
    home = Home(folder / "five")
    argv = (sys.executable, "-m", "factory", "up", "--no-review")
    with subprocess.Popen(argv, env=environment(home.root), stderr=subprocess.DEVNULL) as starting:
        assert process.until(lambda: home.stack.exists(), 60)
        starting.send_signal(signal.SIGINT)
        starting.wait(timeout=STOP_WITHIN)
    assert left(home) == []
