"""Launching and ending one process."""

import signal
import sys

from factory.local import process
from factory.local.process import Command


def python(code: str, **options) -> Command:
    return Command("python", (sys.executable, "-c", code), **options)


def test_output_and_a_header_go_to_the_log(tmp_path):
    log = tmp_path / "child.log"
    for word in ("first", "second"):
        process.launch(python(f"print('{word}')"), log).wait()
    lines = log.read_text().splitlines()
    assert [line for line in lines if not line.startswith("===")] == ["first", "second"]
    assert len(lines) == 4


def test_a_log_that_grew_large_is_set_aside_and_one_old_one_kept(tmp_path):
    log = tmp_path / "child.log"
    for content in ("a" * 20, "b" * 20):
        log.write_text(content)
        process.rotate(log, limit=10)
    assert not log.exists()
    assert (tmp_path / "child.log.1").read_text() == "b" * 20
    log.write_text("short")
    process.rotate(log, limit=10)
    assert log.read_text() == "short"


def test_the_end_of_a_log_is_shown(tmp_path):
    log = tmp_path / "child.log"
    log.write_text("\n".join(str(number) for number in range(9000)))
    assert process.tail(log, lines=2) == "8998\n8999"
    assert process.tail(tmp_path / "none") == ""


def test_a_process_that_ignores_its_stop_signal_is_killed(tmp_path):
    log = tmp_path / "child.log"
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up'); time.sleep(99)"
    child = process.launch(python(stubborn, env={"PYTHONUNBUFFERED": "1"}), log)
    assert process.until(lambda: "up" in log.read_text(), 10)
    process.end(child, signal.SIGTERM, grace=0.2)
    assert child.returncode == -signal.SIGKILL


def test_a_process_that_listens_ends_by_its_own_signal(tmp_path):
    child = process.launch(python("import time; time.sleep(99)"), tmp_path / "child.log")
    process.end(child, signal.SIGTERM, grace=10)
    assert child.returncode == -signal.SIGTERM
