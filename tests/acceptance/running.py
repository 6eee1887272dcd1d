"""A whole factory, as its users have it: `factory up` with every part real."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from factory.client import Client
from factory.local import label_studio


@dataclass(frozen=True)
class RunningFactory:
    """A running `factory up`, and the commands that talk to it."""

    home: Path
    addresses: Mapping[str, str]
    environment: Mapping[str, str]

    def command(self, *arguments: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run `factory …` as a user would."""
        return subprocess.run(
            (sys.executable, "-m", "factory", *arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def client(self) -> Client:
        return Client(self.addresses["url"], self.addresses["token"])

    def pids(self) -> dict[str, int]:
        """The pid of each child by name."""
        state = json.loads((self.home / "stack.json").read_text())
        return {name: child["pid"] for name, child in state["children"].items() if child["pid"]}


@contextmanager
def factory_up(home: Path, server: label_studio.Server) -> Iterator[RunningFactory]:
    """`factory up` in `home`, reviewing in a Label Studio that runs already."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("FACTORY_")},
        "FACTORY_HOME": str(home),
        "FACTORY_LABEL_STUDIO_URL": server.url,
        "FACTORY_LABEL_STUDIO_API_KEY": server.token,
        "FACTORY_LEASE_SECONDS": "5",
        "FACTORY_HEARTBEAT_SECONDS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    with (
        home.with_suffix(".err").open("wb") as errors,
        subprocess.Popen(
            (sys.executable, "-m", "factory", "up", "--json"),
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as up,
    ):
        try:
            assert up.stdout is not None
            line = up.stdout.readline()
            assert line, home.with_suffix(".err").read_text()
            yield RunningFactory(home, json.loads(line), environment)
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait(30)
