"""What a person sees of long work, on a terminal and in a log."""

import io
from typing import Any

import pytest
from rich.console import Console

from factory import live


def job(state: str, done: int, **progress: Any) -> dict[str, Any]:
    known = {
        "planned": 4,
        "done": done,
        "failed": 0,
        "tokens_per_second": None,
        "eta_seconds": None,
    }
    return {"kind": "generate", "state": state, "progress": known | progress}


def lines_of(console: Console) -> list[str]:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.fixture
def log() -> Console:
    """A console that is no terminal."""
    return Console(file=io.StringIO(), force_terminal=False, width=60)


def test_a_log_gets_the_beginning_the_last_update_and_the_time(log: Console) -> None:
    with live.shown(log) as shown, shown.phase("Work") as phase:
        for done in range(1, 101):
            phase.update(done, 100, "samples")
    first, *between, update, last = lines_of(log)
    assert first == "Work …"
    assert between == []
    assert update == "Work 100/100 samples"
    assert last.startswith("Work: ")


def test_a_log_hears_of_a_new_title_at_once(log: Console) -> None:
    with live.shown(log) as shown, shown.phase("pending") as phase:
        phase.rename("running")
        phase.update(1, 4, "samples")
    assert "running 1/4 samples" in lines_of(log)


def test_markup_in_titles_means_nothing(log: Console) -> None:
    with live.shown(log) as shown:
        shown.say("[bold]as it is[/bold]")
        with shown.phase("[red]title"):
            pass
    assert lines_of(log)[:2] == ["[bold]as it is[/bold]", "[red]title …"]


def test_a_job_is_followed_to_its_last_update(log: Console) -> None:
    updates = [job("running", 1), job("partial", 3, failed=1)]
    with live.shown(log) as shown, shown.phase("Job") as phase:
        assert live.follow(phase, updates) == updates[-1]
    assert "Job 4/4 samples" in lines_of(log)


def test_a_terminal_shows_samples_pace_and_the_time_left() -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120)
    update = job("running", 2, tokens_per_second=1234.5, eta_seconds=75.0)
    with live.shown(terminal) as shown, shown.phase("[x] job") as phase:
        live.follow(phase, [update])
    text = "\n".join(lines_of(terminal))
    assert "[x] job" in text
    assert "2/4 samples 1,234 tokens/s  ETA 1:15" in text
