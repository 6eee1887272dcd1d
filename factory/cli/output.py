"""How answers are shown: one JSON document for programs, tables for people."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from factory.cli.command import wanted
from factory.errors import FactoryError

STATE_STYLES = {
    "succeeded": "green",
    "accepted": "green",
    "running": "cyan",
    "partial": "yellow",
    "paused": "yellow",
    "fixed": "yellow",
    "failed": "red",
    "rejected": "red",
    "cancelled": "dim",
    "filtered": "dim",
}


def stdout() -> Console:
    """The console for answers. Where stdout is no terminal, lines are not cut."""
    width = None if sys.stdout.isatty() else 200
    return Console(file=sys.stdout, highlight=False, width=width)


def stderr() -> Console:
    """The console for progress and notes."""
    return Console(stderr=True, highlight=False)


def answer(value: Any, *shown: RenderableType) -> None:
    """Give the answer: `value` as JSON when that is wanted, else what is `shown`."""
    if wanted().json:
        print_json(value)
    else:
        stdout().print(*shown, sep="\n")


def print_json(value: Any) -> None:
    """One JSON document on stdout, on one line."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """Tell a person something beside the answer."""
    if not wanted().json:
        stderr().print(Text(text), soft_wrap=True)


def refuse(error: FactoryError, *, as_json: bool) -> None:
    """Say what went wrong: on stderr for people, as the JSON document for programs."""
    if as_json:
        print_json(
            {
                "error": {
                    "status": error.status,
                    "title": error.title,
                    "detail": error.detail,
                    "errors": [{"field": e.field, "reason": e.reason} for e in error.errors],
                }
            }
        )
        return
    console = stderr()
    console.print(Text.assemble(("Error: ", "bold red"), error.detail), soft_wrap=True)
    for each in error.errors:
        console.print(Text(f"  {each.field}: {each.reason}" if each.field else f"  {each.reason}"))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
    """Rows under headings. Values are shown as they are: markup in them means nothing."""
    found = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        found.add_column(column, overflow="fold")
    for row in rows:
        found.add_row(*(cell(value) for value in row))
    return found


def details(value: Mapping[str, Any]) -> Table:
    """One thing: a line for each of its fields, inner ones with dotted names."""
    found = Table.grid(padding=(0, 2, 0, 0))
    found.add_column(style="bold", no_wrap=True)
    found.add_column(overflow="fold")
    for name, inner in flat(value):
        found.add_row(name, cell(inner))
    return found


def flat(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """(dotted name, value) of every field that holds no object."""
    for name, inner in value.items():
        if isinstance(inner, Mapping) and inner:
            yield from flat(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner


def cell(value: Any) -> Text:
    """A value as text: states in colour, nothing as a dash."""
    if value is None or value == "" or value == [] or value == {}:
        return Text("-", style="dim")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, float):
        return Text(f"{value:.4g}")
    if isinstance(value, list | dict):
        return Text(json.dumps(value, ensure_ascii=False))
    text = str(value)
    return Text(text, style=STATE_STYLES.get(text, ""))


def short(text: str, length: int = 80) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"
