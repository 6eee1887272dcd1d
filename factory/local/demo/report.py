"""The demo's report: a table for the terminal and a page that stands alone.

Both are made from the demo's JSON, `{"demo": {"seconds", "rounds": […]}}`; `round_result`
makes one of its rounds.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.table import Table

from factory.local.demo.grammar import parse, theme
from factory.local.demo.measures import measure
from factory.local.demo.reviewer import REJECTED_THEME

SHOWN = 12  # sample texts a round in the page


@dataclass(frozen=True)
class Counts:
    """What became of a round's samples, audit included."""

    planned: int
    stored: int
    pushed: int
    reviewed: int


@dataclass(frozen=True)
class Measure:
    """One measure as it is shown."""

    key: str
    title: str
    explanation: str


MEASURES = (
    Measure(
        "theme_share",
        "Share of the rejected theme",
        "How many samples are about the theme that the reviewer rejects. Lower is better.",
    ),
    Measure(
        "coherence",
        "Coherence",
        "How many samples the grammar can parse: agreement, the same two things named again. "
        "Higher is better.",
    ),
    Measure(
        "distinct3",
        "Variety (distinct-3)",
        "Different runs of three words among all runs of three. It falls as a set grows, so "
        "compare rounds of one size.",
    ),
    Measure(
        "yield",
        "Yield",
        "How many samples are of use: coherent, new, no copy of a real one, not of the "
        "rejected theme. Higher is better.",
    ),
)


def round_result(
    name: str,
    *,
    feedback: bool,
    counts: Counts,
    guided: Sequence[str],
    audit: Sequence[str],
    real: Collection[str],
) -> dict[str, Any]:
    """One round of the demo's JSON: counts, the guided texts' measures, the audit's own."""
    return {
        "name": name,
        "feedback": feedback,
        **asdict(counts),
        **measure(guided, real, REJECTED_THEME),
        "audit": measure(audit, real, REJECTED_THEME),
    }


def terminal_table(demo: Mapping[str, Any]) -> Table:
    """The rounds side by side, for the terminal."""
    table = Table(title=f"The demo's rounds (reviewer simulated, rejects “{REJECTED_THEME}”)")
    table.add_column("")
    for entry in demo["rounds"]:
        table.add_column(entry["name"], justify="right")
    rows = [("Feedback", ["yes" if entry["feedback"] else "no" for entry in demo["rounds"]])]
    for key in ("planned", "stored", "pushed", "reviewed"):
        rows.append((key.capitalize(), [str(entry[key]) for entry in demo["rounds"]]))
    for shown in (*MEASURES, Measure("copies", "Copies of real samples", "")):
        rows.append((shown.title, [in_words(entry, shown.key) for entry in demo["rounds"]]))
    audits = [in_words(entry["audit"], "theme_share") for entry in demo["rounds"]]
    rows.append(("Rejected theme in the audit", audits))
    for title, cells in rows:
        table.add_row(title, *cells)
    return table


def write_page(path: Path, demo: Mapping[str, Any], texts: Mapping[str, Sequence[str]]) -> None:
    """Write the page. `texts` are the guided samples of each round, by the round's name."""
    environment = Environment(
        loader=PackageLoader("factory.local.demo"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(
        demo=demo,
        theme=REJECTED_THEME,
        headline=headline(demo),
        measures=MEASURES,
        scale=_scale,
        in_words=in_words,
        samples={name: [_shown(text) for text in some[:SHOWN]] for name, some in texts.items()},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def headline(demo: Mapping[str, Any]) -> str:
    """What came of the feedback, in a sentence."""
    rounds = {entry["name"]: entry for entry in demo["rounds"]}
    before, after = rounds["control"], rounds["round-2"]
    return (
        f"Rejecting “{REJECTED_THEME}” took it from {_percent(before['theme_share'])} to "
        f"{_percent(after['theme_share'])} of new samples; "
        f"{_percent(after['coherence'])} of them are coherent, "
        f"without feedback {_percent(before['coherence'])}."
    )


def in_words(entry: Mapping[str, Any], key: str) -> str:
    """A measure and its interval: `33 % (28–38)`, or a dash where nothing was measured."""
    if entry[key] is None:
        return "–"
    if entry[f"{key}_ci"] is None:
        return _percent(entry[key])
    low, high = entry[f"{key}_ci"]
    return f"{_percent(entry[key])} ({low * 100:.0f}–{high * 100:.0f})"


def _scale(demo: Mapping[str, Any], key: str) -> float:
    """The axis' end: the highest interval's, rounded up to a tenth."""
    ends = [entry[f"{key}_ci"][1] for entry in demo["rounds"] if entry[f"{key}_ci"]]
    return max(1, math.ceil(10 * max(ends, default=0))) / 10


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share * 100:.0f} %"


def _shown(text: str) -> dict[str, Any]:
    return {
        "text": text,
        "theme": theme(text) or "none",
        "coherent": parse(text) is not None,
        "rejected": theme(text) == REJECTED_THEME,
    }
