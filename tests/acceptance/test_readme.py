"""The README's commands, run as written on a factory where the demo has run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Demo
from .running import RunningFactory

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = [
    (language, body)
    for language, body in re.findall(r"```(sh|python)\n(.*?)```", README, re.DOTALL)
    if not re.match(r"make \w+", body)
]


@pytest.fixture(scope="module")
def shell(
    running_factory: RunningFactory, demo: Demo, tmp_path_factory: pytest.TempPathFactory
) -> "Shell":
    environment = {
        **running_factory.environment,
        "FACTORY_URL": running_factory.addresses["url"],
        "FACTORY_TOKEN": running_factory.addresses["token"],
    }
    return Shell(tmp_path_factory.mktemp("readme"), environment)


class Shell:
    """Runs blocks one after the other in one folder, as a reader would."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = environment

    def run(self, language: str, body: str) -> subprocess.CompletedProcess[str]:
        if language == "python":
            command = [sys.executable, "-c", body]
        else:
            command = ["bash", "-euo", "pipefail", "-c", body]
        return subprocess.run(
            command,
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


def test_the_readme_has_commands() -> None:
    assert len(BLOCKS) >= 8


@pytest.mark.parametrize(
    ("language", "body"), BLOCKS, ids=[body.splitlines()[0][:40] for _, body in BLOCKS]
)
def test_block(shell: Shell, language: str, body: str) -> None:
    done = shell.run(language, body)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_no_job_of_these_came_to_grief(shell: Shell, running_factory: RunningFactory) -> None:
    with running_factory.client() as client:
        ends = [[*client.watch(job["id"])][-1] for job in client.jobs(dataset="ideas")]
    assert len(ends) >= 4
    assert {job["state"] for job in ends} <= {"succeeded", "cancelled"}, ends
