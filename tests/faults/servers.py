"""The servers that a plant may stand on: brokers, and a disk that can be filled."""

import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from kombu import Connection

from factory.local import home
from factory.local.process import Command

RABBITMQ = Path("/usr/lib/rabbitmq/lib")
DISK_MB = 400


def rabbitmq_server() -> Path | None:
    """The installed server's own start script (not Debian's, which changes the user)."""
    found = sorted(RABBITMQ.glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    return found[-1] if found and shutil.which("epmd") else None


@dataclass(frozen=True)
class RabbitMQ:
    """A RabbitMQ of one node in a folder of its own, with a name server (epmd) of its own."""

    folder: Path
    port: int
    names_port: int
    nodes_port: int

    @staticmethod
    def at(folder: Path) -> "RabbitMQ":
        folder.mkdir()
        return RabbitMQ(folder, home.free_port(), home.free_port(), home.free_port())

    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def names(self) -> Command:
        """The name server: RabbitMQ would else start one that outlives it."""
        argv = ("epmd", "-address", "127.0.0.1", "-port", str(self.names_port))
        return Command("epmd", argv, {"HOME": str(self.folder)})

    def prepare(self) -> Command:
        environment = {
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(self.names_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"faults{self.port}@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(self.nodes_port),
            "RABBITMQ_MNESIA_BASE": str(self.data),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(self.folder / "none"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none +sbwtdcpu none",
        }
        script = str(rabbitmq_server())
        return Command("rabbitmq", (script,), environment, stop_signal=signal.SIGTERM)

    @property
    def data(self) -> Path:
        return self.folder / "mnesia"

    def ready(self) -> bool:
        with suppress(Exception), Connection(self.url(), connect_timeout=3) as connection:
            connection.connect()
            return True
        return False


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@dataclass(frozen=True)
class SmallDisk:
    """A file system in memory, of DISK_MB."""

    folder: Path

    @property
    def _filler(self) -> Path:
        return self.folder / "filler"

    def fill(self) -> None:
        """Until not a byte is left."""
        for size in (2**20, 2**12, 1):
            with suppress(OSError), self._filler.open("ab", buffering=0) as file:
                while file.write(b"\0" * size):
                    pass

    def make_room(self) -> None:
        self._filler.unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """Mounted at this folder. Raises OSError where that is not permitted."""
    folder.mkdir()
    with ExitStack() as mounted:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=711", "tmpfs", str(folder)]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
        mounted.callback(subprocess.run, ["umount", "--lazy", str(folder)], check=True)
        yield SmallDisk(folder)


def may_mount(folder: Path) -> str | None:
    """Why no tmpfs can be mounted below this folder, if that is so."""
    try:
        with small_disk(folder / "mount"):
            return None
    except OSError as error:
        return str(error)
