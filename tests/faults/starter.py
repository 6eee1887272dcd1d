"""Starts GPU workers from a process that has imported what they import: a worker that is killed is
back in a second, and hundreds can be killed in an hour.

    python -m tests.faults.starter SOCKET
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import psutil

from factory.local.process import Command

READY = b"\n"


class Forked:
    """A process that the starter has started; it is asked and waited for like a Popen."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._process: psutil.Process | None = None
        try:
            self._process = psutil.Process(pid)
        except psutil.NoSuchProcess:  # it has ended already
            return

    def poll(self) -> int | None:
        return None if self._process and self._process.is_running() else 0

    def wait(self, timeout: float | None = None) -> int:
        try:
            if self._process:
                self._process.wait(timeout)
        except psutil.TimeoutExpired as error:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0) from error
        return 0

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def launcher(path: Path) -> Callable[[Command, Path], Forked]:
    """What starts a Celery command line through the starter that listens here."""

    def launch(command: Command, log: Path) -> Forked:
        at = command.argv.index("celery") + 1
        asked = {"argv": command.argv[at:], "env": dict(command.env), "log": str(log)}
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(json.dumps(asked).encode() + READY)
            return Forked(int(connection.recv(64)))

    return launch


def serve(path: str) -> NoReturn:
    """Fork a worker for each request, for ever."""
    import kombu.transport.redis  # noqa: F401

    import workers.gpu_worker  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who ends is gone
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}.new")
        listener.listen()
        os.rename(f"{path}.new", path)  # it is there once it listens
        while True:
            connection, _ = listener.accept()
            asked = json.loads(_line(connection))
            pid = os.fork()
            if pid == 0:
                listener.close()
                connection.close()
                _become(asked)
            connection.sendall(str(pid).encode())
            connection.close()


def _line(connection: socket.socket) -> bytes:
    read = b""
    while not read.endswith(READY):
        read += connection.recv(65536)
    return read


def _become(asked: dict[str, Any]) -> NoReturn:
    """Be this Celery process, in a session of its own."""
    code: object = 1
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        random.seed()
        log = os.open(asked["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(asked["env"])
        sys.argv = ["celery", *asked["argv"]]
        from celery.__main__ import main

        main()
        code = 0
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    serve(sys.argv[1])
