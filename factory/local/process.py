"""Operating-system processes: describe one, launch it in a session of its own, end it.

Every child leads its own session and process group, so that ending the group ends
whatever the child has started, and a Ctrl-C in the terminal reaches only the supervisor.
"""

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from factory.errors import StackError

LOG_LIMIT = 10 * 1024 * 1024
"""A log larger than this (bytes) is set aside as `<name>.log.1` when its child starts."""


@dataclass(frozen=True)
class Account:
    """An operating-system user that a child runs as."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class Command:
    """What to run, and how to ask it to stop."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the environment of this process."""
    cwd: Path = Path("/")
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM


def account_for_servers() -> Account | None:
    """`nobody` when this process is root, None (as we are) otherwise.

    Raises `StackError` when we are root and the machine has no user `nobody`.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise StackError(
            "Postgres refuses to run as root and this machine has no user 'nobody'. "
            "Add one, run as an ordinary user, or set FACTORY_DATABASE_URL."
        ) from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def run(command: Command, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """Run to the end and return its output (stderr within stdout)."""
    user, group, extra_groups = _identity(command.account)
    return subprocess.run(
        command.argv,
        env={**os.environ, **command.env},
        cwd=command.cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout,
        check=False,
        user=user,
        group=group,
        extra_groups=extra_groups,
    )


def launch(command: Command, log: Path) -> subprocess.Popen[bytes]:
    """Start it in a session of its own, its output appended to `log` below a header line.

    Raises `StackError` when the program cannot be executed.
    """
    rotate(log)
    user, group, extra_groups = _identity(command.account)
    with log.open("ab") as output:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        output.write(f"=== {now} {command.name} starts: {command.argv[0]}\n".encode())
        output.flush()
        try:
            return subprocess.Popen(
                command.argv,
                env={**os.environ, **command.env},
                cwd=command.cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user,
                group=group,
                extra_groups=extra_groups,
            )
        except OSError as error:
            raise StackError(f"{command.name} cannot be started: {error}") from error


def _identity(account: Account | None) -> tuple[int | None, int | None, list[str | int] | None]:
    """User, group and further groups for subprocess; all None: stay who we are."""
    return (account.uid, account.gid, []) if account else (None, None, None)


def rotate(log: Path, limit: int = LOG_LIMIT) -> None:
    """Set a log aside that has grown past `limit` bytes; one old log is kept."""
    if log.exists() and log.stat().st_size > limit:
        log.replace(log.with_name(log.name + ".1"))


def end(process: subprocess.Popen[bytes], stop_signal: signal.Signals, grace: float) -> None:
    """Ask the leader to stop, wait up to `grace` seconds, then kill what is left of its group."""
    ask(process, stop_signal)
    wait(process, grace)
    kill_group(process.pid)
    process.wait()


def ask(process: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
    """Send the leader its stop signal, if it still runs."""
    if process.poll() is None:
        process.send_signal(stop_signal)


def wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether the leader has ended within `seconds`."""
    try:
        process.wait(timeout=max(0.0, seconds))
    except subprocess.TimeoutExpired:
        return False
    return True


def kill_group(leader: int) -> None:
    """SIGKILL every process of the leader's group; nothing when the group is empty."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def tail(log: Path, lines: int = 15) -> str:
    """The last lines of a log, for an error message."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 16_384))
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])


def until(condition: Callable[[], bool], seconds: float, interval: float = 0.05) -> bool:
    """Poll `condition()` until it is true (True) or `seconds` are over (False)."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True
