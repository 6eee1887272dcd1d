"""The supervisor with small children of its own: deaths, restarts, stops, crashes."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from factory.errors import Conflict, StackError
from factory.local import home as homes
from factory.local import process, supervisor
from factory.local.home import Home
from factory.local.process import Command
from factory.local.supervisor import Child, Event, Supervisor

SLEEPER = "import time; time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
PARENT = (
    "import subprocess, sys, time;"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); time.sleep(600)"
)


def child(name: str, code: str = SLEEPER, **options) -> Child:
    return Child(name, lambda: Command(name, (sys.executable, "-c", code)), **options)


@dataclass
class Listener:
    events: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def saw(self, part: str, state: str) -> bool:
        return any(e.part == part and e.state == state for e in self.events)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return homes.open_home(tmp_path / "home")


@pytest.fixture
def listener() -> Listener:
    return Listener()


@pytest.fixture
def children(home, listener):
    children = Supervisor(home, listener)
    yield children
    children.stop([])


def state_of(home: Home, name: str) -> dict:
    return json.loads(home.stack.read_text())["children"][name]


def test_a_killed_child_is_restarted_and_reported(home, listener, children):
    children.spawn(child("sleeper"))
    first = children.pids()["sleeper"]
    os.kill(first, signal.SIGKILL)
    assert process.until(lambda: listener.saw("sleeper", "restarted"), 10)
    assert listener.saw("sleeper", "died")
    assert children.pids()["sleeper"] != first
    assert psutil.pid_exists(children.pids()["sleeper"])
    state = state_of(home, "sleeper")
    assert state["restarts"] == 1
    assert "SIGKILL" in state["last_death"]["how"]
    assert (home.logs / "sleeper.log").read_text().count("=== ") == 2


def test_the_state_file_knows_before_anyone_is_told(home):
    seen = {}

    def note(event: Event) -> None:
        if event.state in ("died", "restarted"):
            seen[event.state] = state_of(home, "sleeper")

    children = Supervisor(home, note)
    try:
        children.spawn(child("sleeper"))
        os.kill(children.pids()["sleeper"], signal.SIGKILL)
        assert process.until(lambda: "restarted" in seen, 10)
    finally:
        children.stop([])
    assert "SIGKILL" in seen["died"]["last_death"]["how"]
    assert (seen["died"]["restarts"], seen["restarted"]["restarts"]) == (0, 1)


def test_what_a_dead_child_had_started_is_ended_before_its_restart(home, listener, children):
    children.spawn(child("parent", PARENT))
    leader = psutil.Process(children.pids()["parent"])
    assert process.until(lambda: leader.children() != [], 10)
    [grandchild] = leader.children()
    leader.kill()
    assert process.until(lambda: not alive(grandchild), 10)


def test_a_child_that_keeps_dying_is_restarted_ever_more_slowly(listener, children):
    children.spawn(child("hopeless", "raise SystemExit(3)"))
    died = lambda: [e for e in listener.events if e.state == "died"]  # noqa: E731
    assert process.until(lambda: len(died()) >= 3, 20)
    assert [e.detail.rsplit(" in ", 1)[1] for e in died()[:3]] == ["0 s", "0.5 s", "1 s"]
    assert "exit code 3" in died()[0].detail


def test_backoff_grows_to_half_a_minute():
    assert [supervisor.backoff(n) for n in (1, 2, 3, 4, 8, 100)] == [0, 0.5, 1, 2, 30, 30]


def test_a_child_that_dies_while_starting_is_an_error_with_its_last_words(children):
    broken = child("broken", "print('no such table'); raise SystemExit(1)", ready=lambda: False)
    children.spawn(broken)
    with pytest.raises(StackError, match=r"(?s)exit code 1.*no such table"):
        children.await_ready("broken")


def test_a_child_that_never_gets_ready_is_an_error(children):
    children.spawn(child("slow", ready=lambda: False, patience=0.3))
    with pytest.raises(StackError, match="not ready after"):
        children.await_ready("slow")


def test_a_program_that_is_missing_is_an_error(children):
    with pytest.raises(StackError, match="cannot be started"):
        children.spawn(Child("missing", lambda: Command("missing", ("/no/such/program",))))


def test_stop_goes_through_its_stages_and_leaves_nothing(home, listener, children):
    for name, code in (("a", SLEEPER), ("b", STUBBORN), ("c", PARENT)):
        children.spawn(child(name, code))
    assert process.until(lambda: len(supervisor.marked(home)) == 4, 10)
    time.sleep(0.3)  # let the stubborn one install its handler
    children.stop([(("c",), 5.0), (("b",), 0.5), (("a",), 5.0)])
    assert supervisor.marked(home) == []
    assert not home.stack.exists()
    stopped = [e for e in listener.events if e.state == "stopped"]
    assert [e.part for e in stopped] == ["c", "b", "a"]
    assert "killed" in stopped[1].detail


def test_nothing_starts_after_a_stop(home, listener):
    children = Supervisor(home, listener)
    children.stop([])
    with pytest.raises(StackError, match="being stopped"):
        children.spawn(child("late"))


CRASHING = """
import os, sys, time
from pathlib import Path
from factory.local import home as homes
from factory.local.supervisor import Child, Supervisor
from factory.local.process import Command
home = homes.open_home(Path(sys.argv[1]))
with homes.locked(home):
    children = Supervisor(home, lambda event: None)
    for name in ("one", "two"):
        children.spawn(Child(name, lambda: Command("x", (sys.executable, "-c", sys.argv[2]))))
    print("up", flush=True)
    time.sleep(600)
"""


def crash(home: Home, code: str) -> None:
    """Run a supervisor with two children in `home` and kill it with -9."""
    argv = (sys.executable, "-c", CRASHING, str(home.root), code)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as crashing:
        assert crashing.stdout.readline() == "up\n"
        crashing.kill()


def test_the_next_start_cleans_up_after_a_killed_supervisor(home):
    crash(home, PARENT)
    assert process.until(lambda: len(supervisor.marked(home)) == 4, 10)
    with homes.locked(home):  # the lock died with its holder
        assert supervisor.clean_up(home) == ["one", "two"]
    assert supervisor.marked(home) == []
    assert not home.stack.exists()


def test_cleaning_up_works_without_a_readable_state_file(home):
    crash(home, SLEEPER)
    home.stack.write_text("{half")
    supervisor.clean_up(home)
    assert supervisor.marked(home) == []


def test_cleaning_up_spares_a_program_that_got_a_childs_pid(home):
    with subprocess.Popen([sys.executable, "-c", SLEEPER], start_new_session=True) as stranger:
        entry = {"pid": stranger.pid, "created": time.time() - 3600, "stop_signal": 15}
        homes.write_json(home.stack, {"children": {"web": entry}})
        assert supervisor.clean_up(home) == []
        assert stranger.poll() is None
        stranger.kill()


def test_cleaning_up_spares_the_stack_of_another_home(home, listener, children, tmp_path):
    children.spawn(child("mine"))
    other = homes.open_home(tmp_path / "other")
    supervisor.clean_up(other)
    assert len(supervisor.marked(home)) == 1


def test_one_stack_per_home(home):
    with homes.locked(home), pytest.raises(Conflict, match=f"pid {os.getpid()}"):
        homes.locked(home).__enter__()
    assert not home.lock.exists()


def alive(candidate: psutil.Process) -> bool:
    try:
        return candidate.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
