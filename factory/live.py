"""Long work as a person sees it on stderr: a bar for each phase on a terminal, lines elsewhere."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from factory.spec import UNITS

LINE_SECONDS = 5.0  # between two lines about the same phase


class Phase:
    """One phase on a terminal: a spinner, and a bar once it is known how much there is."""

    def __init__(self, progress: Progress, title: str) -> None:
        self._progress = progress
        self._task = progress.add_task(escape(title), total=None, detail="")

    def update(self, done: float, total: float | None, detail: str = "") -> None:
        """Show how far it is. `detail` follows the bar."""
        count = f"{done:,.0f}/{total:,.0f} " if total else ""
        self._progress.update(
            self._task, completed=done, total=total, detail=escape(f"{count}{detail}")
        )

    def rename(self, title: str) -> None:
        """Show another title."""
        self._progress.update(self._task, description=escape(title))

    def end(self) -> None:
        """Stop the spinner and the clock, and fill the bar."""
        self._progress.update(self._task, completed=1, total=1)


class LinePhase:
    """One phase where there is no terminal: a line for each change, not too often."""

    def __init__(self, console: Console, title: str) -> None:
        self._console, self._title = console, title
        self._started = time.monotonic()
        self._told, self._waiting, self._last = self._started - LINE_SECONDS, "", ""
        if title:
            self._tell(f"{title} …")

    def update(self, done: float, total: float | None, detail: str = "") -> None:
        """Show how far it is."""
        count = f" {done:,.0f}/{total:,.0f}" if total else ""
        self._waiting = f"{self._title}{count} {detail}".strip()
        if time.monotonic() - self._told >= LINE_SECONDS:
            self._tell(self._waiting)

    def rename(self, title: str) -> None:
        """Go on under another title; its next update is told at once."""
        if title != self._title:
            self._title, self._told = title, self._told - LINE_SECONDS

    def end(self) -> None:
        """Tell what was not told yet, and how long it took."""
        self._tell(self._waiting)
        self._tell(f"{self._title}: {time.monotonic() - self._started:.1f} s")

    def _tell(self, line: str) -> None:
        if line and line != self._last:
            self._console.print(line, markup=False, soft_wrap=True)
            self._told, self._last = time.monotonic(), line


class Live:
    """Phases one below the other. Use within `shown`."""

    def __init__(self, console: Console, progress: Progress | None) -> None:
        self._console, self._progress = console, progress

    @contextmanager
    def phase(self, title: str) -> Iterator[Phase | LinePhase]:
        """Show a phase while the block runs."""
        bar = self._progress
        shown = Phase(bar, title) if bar else LinePhase(self._console, title)
        yield shown
        shown.end()

    def say(self, line: str) -> None:
        """A line above the bars."""
        self._console.print(line, markup=False, soft_wrap=True)


@contextmanager
def shown(console: Console) -> Iterator[Live]:
    """Show phases on this console while the block runs."""
    if not console.is_terminal:
        yield Live(console, None)
        return
    columns = (
        SpinnerColumn(finished_text="•"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield Live(console, progress)


def follow(phase: Phase | LinePhase, jobs: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Show every update of one job; returns the last one, which tells how it ended."""
    job: Mapping[str, Any] = {}
    for job in jobs:
        progress = job["progress"]
        phase.update(
            progress["done"] + progress["failed"], progress["planned"], f"{unit(job)} {_pace(job)}"
        )
    return job


def unit(job: Mapping[str, Any]) -> str:
    """What a job counts."""
    return UNITS[job["kind"]]


def _pace(job: Mapping[str, Any]) -> str:
    """Tokens a second and the time that is left, as far as they are known."""
    progress = job["progress"]
    rate, left = progress["tokens_per_second"], progress["eta_seconds"]
    parts = [f"{rate:,.0f} tokens/s"] if rate else []
    parts += [f"ETA {int(left) // 60}:{int(left) % 60:02d}"] if left is not None else []
    return "  ".join(parts)
