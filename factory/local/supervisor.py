"""Keep child processes alive, report each death, stop them all in order, leave nothing behind.

Every child carries `FACTORY_STACK=<home>` in its environment and is listed in `stack.json`
with its pid and start time, so that the next start can clean up after a supervisor that was
killed: a pid alone may belong to another program by then.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from subprocess import Popen

import psutil

from factory import log
from factory.errors import StackError
from factory.local import process
from factory.local.home import Home, read_json, write_json
from factory.local.process import Command

MARK = "FACTORY_STACK"
FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
STEADY = 60.0
"""A child that lived for so many seconds has its earlier deaths forgiven."""

_log = log.get(__name__)


@dataclass(frozen=True)
class Event:
    """Something happened to a part of the stack."""

    part: str
    state: str
    """installing, starting, ready, died, restarted, stopping, stopped or note"""
    detail: str = ""
    seconds: float | None = None
    """How long it took, where that is of interest."""


@dataclass(frozen=True)
class Child:
    """A process to keep alive. `prepare` is called before every start."""

    name: str
    prepare: Callable[[], Command]
    ready: Callable[[], bool] | None = None
    patience: float = 120


@dataclass(frozen=True)
class Death:
    """How and when a child ended by itself."""

    at: str
    how: str


@dataclass
class _Running:
    child: Child
    process: Popen[bytes]
    stop_signal: signal.Signals
    created: float
    started: float
    settled: bool = False
    """Ready once: from now on it is restarted when it dies."""
    failures: int = 0
    restarts: int = 0
    restart_at: float | None = None
    last_death: Death | None = None


class Supervisor:
    """Starts children, watches them in a thread of its own, restarts them with backoff."""

    def __init__(self, home: Home, on_event: Callable[[Event], None]) -> None:
        self._home = home
        self._on_event = on_event
        self._running: dict[str, _Running] = {}
        self._addresses: dict[str, str] = {}
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._watcher.start()

    def publish(self, addresses: dict[str, str]) -> None:
        """Write addresses into `stack.json` beside the children."""
        self._addresses = addresses
        self._save()

    def spawn(self, child: Child) -> None:
        """Start a child without waiting for it. Raises `StackError` when it cannot be run."""
        with self._lock:
            if self._stopping.is_set():
                raise StackError(f"{child.name} is not started: the stack is being stopped.")
            self._running[child.name] = self._launch(child)
            self._running[child.name].settled = child.ready is None
            self._save()

    def await_ready(self, name: str) -> None:
        """Wait until a spawned child is ready.

        Raises `StackError` with the end of its log when it dies first or takes too long.
        """
        running = self._running[name]
        ready, patience = running.child.ready or (lambda: True), running.child.patience
        done = process.until(
            lambda: running.process.poll() is not None or ready(), patience, interval=0.1
        )
        if running.process.poll() is not None or not done:
            raise StackError(self._why_not_ready(running))
        running.settled = True
        self._report(Event(name, "ready", seconds=time.monotonic() - running.started))

    def pids(self) -> dict[str, int]:
        """The pid of each child, for those who want to look at or disturb one."""
        return {name: running.process.pid for name, running in self._running.items()}

    def stop(self, stages: Sequence[tuple[Sequence[str], float]]) -> None:
        """End all children, stage after stage: (names, seconds before they are killed)."""
        with self._lock:
            self._stopping.set()
        if self._watcher.is_alive():
            self._watcher.join()
        for names, grace in stages:
            self._stop_stage([self._running[n] for n in names if n in self._running], grace)
        left = [r for r in self._running.values() if r.process.poll() is None]
        self._stop_stage(left, grace=1)
        kill_marked(self._home)
        self._home.stack.unlink(missing_ok=True)

    def _stop_stage(self, stage: list[_Running], grace: float) -> None:
        deadline = time.monotonic() + grace
        for running in stage:
            self._report(Event(running.child.name, "stopping"))
            process.ask(running.process, running.stop_signal)
        for running in stage:
            in_time = process.wait(running.process, deadline - time.monotonic())
            process.kill_group(running.process.pid)
            running.process.wait()
            detail = "" if in_time else f"killed after {grace:.0f} s"
            self._report(Event(running.child.name, "stopped", detail))

    def _launch(self, child: Child) -> _Running:
        command = child.prepare()
        marked = replace(command, env={**command.env, **mark(self._home)})
        popen = process.launch(marked, self._log_file(child.name))
        self._report(Event(child.name, "starting"))
        return _Running(
            child, popen, command.stop_signal, _created(popen.pid), started=time.monotonic()
        )

    def _log_file(self, name: str) -> Path:
        return self._home.logs / f"{name}.log"

    def _why_not_ready(self, running: _Running) -> str:
        name, code = running.child.name, running.process.poll()
        what = (
            f"is not ready after {running.child.patience:.0f} s"
            if code is None
            else f"stopped while starting ({_how(code)})"
        )
        file = self._log_file(name)
        return f"{name} {what}. The end of {file}:\n{process.tail(file)}"

    def _watch(self) -> None:
        while not self._stopping.wait(0.2):
            with self._lock:
                for running in list(self._running.values()):
                    self._guard(running)

    def _guard(self, running: _Running) -> None:
        """Look after one child; the watch itself must outlive any failure to do so."""
        try:
            self._look_after(running)
        except Exception:
            _log.exception("child_not_looked_after", child=running.child.name)

    def _look_after(self, running: _Running) -> None:
        if not running.settled:
            return
        if running.restart_at is None:
            if running.process.poll() is not None:
                self._bury(running)
        elif time.monotonic() >= running.restart_at:
            self._restart(running)

    def _bury(self, running: _Running) -> None:
        """Note a death, clear away what the child left, and plan its restart."""
        process.kill_group(running.process.pid)
        lived = time.monotonic() - running.started
        running.failures = 1 if lived > STEADY else running.failures + 1
        running.last_death = Death(
            datetime.now(UTC).isoformat(timespec="seconds"),
            f"{_how(running.process.returncode)} after {lived:.0f} s",
        )
        self._plan_restart(running, running.last_death.how)

    def _plan_restart(self, running: _Running, why: str) -> None:
        delay = backoff(running.failures)
        running.restart_at = time.monotonic() + delay
        name = running.child.name
        _log.warning("child_died", child=name, how=why, restart_in=delay)
        self._save()
        self._report(Event(name, "died", f"{why}; it starts again in {delay:g} s"))

    def _restart(self, running: _Running) -> None:
        try:
            fresh = self._launch(running.child)
        except StackError as error:
            running.failures += 1
            self._plan_restart(running, error.detail)
            return
        running.process, running.created = fresh.process, fresh.created
        running.started, running.restart_at = fresh.started, None
        running.restarts += 1
        _log.info("child_restarted", child=running.child.name, restarts=running.restarts)
        self._save()
        self._report(Event(running.child.name, "restarted"))

    def _report(self, event: Event) -> None:
        self._on_event(event)

    def _save(self) -> None:
        with self._lock:
            write_json(self._home.stack, self._state())

    def _state(self) -> dict[str, object]:
        me = os.getpid()
        return {
            "supervisor": {"pid": me, "created": _created(me)},
            "addresses": self._addresses,
            "children": {name: _describe(r) for name, r in self._running.items()},
        }


def _describe(running: _Running) -> dict[str, object]:
    death = running.last_death
    return {
        "pid": running.process.pid,
        "created": running.created,
        "stop_signal": running.stop_signal.value,
        "restarts": running.restarts,
        "waiting": running.restart_at is not None,
        "last_death": {"at": death.at, "how": death.how} if death else None,
    }


def backoff(failures: int) -> float:
    """Seconds to wait after so many deaths in a row: none, then 0.5, 1, 2, … up to 30."""
    return min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(failures - 2, 10)) if failures > 1 else 0.0


def _how(code: int) -> str:
    """A return code in words."""
    if code >= 0:
        return f"exit code {code}"
    return f"killed by {signal.Signals(-code).name}"


def _created(pid: int) -> float:
    """When the process started (seconds since 1970), 0 when it is gone already."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return 0.0


def is_same(pid: int, created: float) -> bool:
    """Whether the process that had this pid and start time is still running."""
    try:
        found = psutil.Process(pid)
        # The kernel's idea of when it booted moves a little with the clock.
        return found.status() != psutil.STATUS_ZOMBIE and abs(found.create_time() - created) < 2
    except psutil.NoSuchProcess:
        return False


def mark(home: Home) -> dict[str, str]:
    """What is put into the environment of everything that a stack starts."""
    return {MARK: str(home.root)}


def marked(home: Home) -> list[psutil.Process]:
    """Every running process, but this one, that carries the home's mark."""
    return [p for p in psutil.process_iter() if p.pid != os.getpid() and _mark_of(p) == home.root]


def _mark_of(candidate: psutil.Process) -> Path | None:
    try:
        value = candidate.environ().get(MARK)
    except (psutil.Error, OSError):
        return None
    return Path(value) if value else None


def kill_marked(home: Home) -> None:
    """SIGKILL everything that carries the home's mark, and wait for it to be gone."""
    found = marked(home)
    for victim in found:
        with suppress(psutil.NoSuchProcess):
            victim.kill()
    psutil.wait_procs(found, timeout=3)


def clean_up(home: Home) -> list[str]:
    """End what a killed supervisor left running. Returns the names of the children found.

    The caller holds the home's lock, so no live supervisor owns these processes.
    """
    left = _left_over(home)
    for leader, stop_signal in left.values():
        with suppress(psutil.NoSuchProcess):
            leader.send_signal(stop_signal)
    psutil.wait_procs([leader for leader, _ in left.values()], timeout=5)
    for leader, _ in left.values():
        process.kill_group(leader.pid)
    kill_marked(home)
    home.stack.unlink(missing_ok=True)
    return sorted(left)


def _left_over(home: Home) -> dict[str, tuple[psutil.Process, int]]:
    """The recorded children that still run, with their stop signals."""
    try:
        children = read_json(home.stack).get("children")
    except StackError:
        return {}  # the supervisor was killed while writing it, or someone edited it
    if not isinstance(children, dict):
        return {}
    return {
        name: (psutil.Process(int(entry["pid"])), int(entry["stop_signal"]))
        for name, entry in children.items()
        if is_same(int(entry["pid"]), float(entry["created"]))
    }
