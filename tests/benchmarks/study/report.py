"""The study's results as Markdown: all of them, and the short form that the README shows."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.study.aims import aims, over_tasks
from tests.benchmarks.study.compare import verdicts

Result = dict[str, Any]
Rows = Sequence[dict[str, Any]]
SHOWN = ("rejected", "yield", "distinct3_kept", "theme_share")
THEME_LEFT = ("entity", "changes his mind")  # whose favourite theme should be there in the end
START, END = "<!-- study: begin -->", "<!-- study: end -->"


def rows_of(result: Result, part: str) -> list[dict[str, Any]]:
    """The rows of a part's cells that are in, in the order of its cells."""
    cells = result["parts"][part]
    return [row for cell in result["cells"][part] if cell in cells for row in cells[cell]]


def markdown(result: Result) -> str:
    """Everything."""
    parts = [
        "# The study",
        _how(result),
        "## What was aimed at",
        _aims(result),
        "## Does context matter?\n\nNats a token that a context adds to the log-probability of an "
        "unseen sample: its three nearest real samples, or the sample itself.",
        _table(rows_of(result, "context"), "task", "model", "nearest", "itself"),
        "## Three rejections\n\nThe favourite theme's share, without and with three rejected "
        "samples of it as negatives.",
        _table(
            rows_of(result, "three"),
            *("task", "theme", "eta", "without", "with_three", "times", "at_least", "coherence"),
        ),
        "## Rules\n\nEach tuned for yield on another expert; distinct-3 at one size; AUROC of a "
        "classifier against real samples that no model has seen (.5: cannot tell).",
        _table(
            rows_of(result, "rules"),
            *("task", "regime", "rule", "coherence", "distinct3", "yield", "copies", "auroc"),
            "setting",
        ),
        _rules_in_words(rows_of(result, "rules")),
        "## Rejections, once\n\nDistinct-3 of equally many kept samples of every lever; written: "
        "texts written for each one asked for.",
        _table(rows_of(result, "levers"), *LEVER_COLUMNS),
        "## Rejections, round after round\n\nMean of the last two of the rounds.",
        _table(
            rows_of(result, "loop"),
            *LEVER_COLUMNS,
            *("audit_rejected", "by_round", "favourite_by_round"),
        ),
        "## Calibration against a grid\n\nYield with other experts and noise than the choice was "
        "made with.",
        _table(
            rows_of(result, "calibrate"),
            *("task", "regime", "plain_yield", "grid_yield", "calibrated_yield", "ratio"),
            *("share_of_samples", "grid", "calibrated"),
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


LEVER_COLUMNS = (
    *("task", "reviewer", "regime", "lever", "rejected", "theme_share", "coherence"),
    *("near_copies", "distinct3_kept", "yield", "written"),
)


def short(result: Result) -> str:
    """What the README shows."""
    rules = rows_of(result, "rules")
    parts = [
        _how(result),
        _aims(result),
        _rules_in_short(rules),
        _levers_in_short("Rejections acted on once", rows_of(result, "levers")),
        _levers_in_short(
            "Rejections acted on in rounds of "
            f"{result['sizes']['reviews']} reviews: the last two of {result['sizes']['rounds']}",
            rows_of(result, "loop"),
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_into(readme: Path, text: str) -> None:
    """Put a text between the README's two marks. Raises ValueError where a mark is missing."""
    before, _, rest = readme.read_text().partition(START)
    _, mark, after = rest.partition(END)
    if not mark:
        raise ValueError(f"{readme} has no {START} … {END}: put both marks where the study goes")
    readme.write_text(f"{before}{START}\n{text}{END}{after}")


def _how(result: Result) -> str:
    sizes = result["sizes"]
    found = {
        part: (len(rows), len(result["cells"][part])) for part, rows in result["parts"].items()
    }
    missing = [f"{part} {made} of {all_}" for part, (made, all_) in found.items() if made < all_]
    text = (
        f"Made on {result['date']} by `make study`: {sizes['seeds']} seeds (each an expert of its "
        f"own, and its own noise), {sizes['samples']} samples a seed and figure "
        f"({round(0.8 * sizes['reviews'])} a round of the loop), {sizes['tuning']} for each "
        f"setting that a rule is tuned over; in brackets 95 % intervals."
    )
    return f"{text} Cells that are in so far: {', '.join(missing)}." if missing else text


def _aims(result: Result) -> str:
    """What was aimed at, what was found, and whether that is it."""
    found = aims({part: rows_of(result, part) for part in result["parts"]})
    whole = all(len(result["parts"][part]) == len(cells) for part, cells in result["cells"].items())
    heads = {"aim": "aim", "found": "found", "met": "met" if whole else "met, so far"}
    return _named(found, heads) if found else ""


def _rules_in_short(rows: Rows) -> str:
    if not rows:
        return ""
    cells = list(dict.fromkeys((row["task"], row["regime"]) for row in rows))
    found = {(row["task"], row["regime"], row["rule"]): row for row in rows}
    table = []
    for task, regime in cells:
        rules = [row for row in rows if (row["task"], row["regime"]) == (task, regime)]
        best = max(rules, key=lambda row: row["yield"]["value"])
        line = {"task": task, "regime": regime, "best": f"{best['rule']} {_use(best)}"}
        for rule in ("plain", "nucleus", "steer"):
            row = found.get((task, regime, rule))
            line[rule] = _use(row) if row else "–"
        table.append(line)
    heads = {"task": "task", "regime": "expert", "plain": "yield; distinct-3: plain"}
    heads |= {"nucleus": "nucleus, tuned", "steer": "STEER, tuned", "best": "best rule"}
    return f"{_named(table, heads)}\n\n{_rules_in_words(rows)}"


def _use(row: dict[str, Any]) -> str:
    return f"{_cell(row['yield'])}; {_value(row['distinct3'])}"


def _rules_in_words(rows: Rows) -> str:
    if not rows:
        return ""
    found = verdicts(rows)
    cells = len(found["cells"])
    beaten = [
        f"{cell['task']}, {cell['regime']}: {', '.join(cell['beaten_by'])}"
        for cell in found["cells"]
        if cell["beaten_by"]
    ]
    which = f" ({'; '.join(beaten)})" if beaten else ""
    return (
        f"Of {cells} cells, STEER is beaten on both coherence and distinct-3 beyond the intervals "
        f"in {len(beaten)}{which}. Its yield is above "
        f"tuned nucleus sampling's in {found['ahead_of_nucleus']}, beyond the intervals in "
        f"{found['ahead_beyond_interval']}, and below beyond them in "
        f"{found['behind_beyond_interval']}."
    )


def _levers_in_short(title: str, rows: Rows) -> str:
    """A line for each lever, a column for each reviewer: means over the tasks."""
    if not rows:
        return ""
    groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        groups.setdefault(row["lever"], {}).setdefault(row["reviewer"], []).append(row)
    table = []
    for lever, by_reviewer in groups.items():
        line = {"lever": lever}
        for reviewer, members in by_reviewer.items():
            found = {key: over_tasks([row[key] for row in members if row[key]]) for key in SHOWN}
            refused, use, variety, theme = (found[key] for key in SHOWN)
            line[reviewer] = f"{_cell(refused)}; {_value(use)}; {_value(variety)}"
            if reviewer in THEME_LEFT:
                line[f"{reviewer}: favourite theme"] = _cell(theme)
        table.append(line)
    heads = {"lever": "lever"} | {key: key for line in table for key in line if key != "lever"}
    return (
        f"{title}. A column is a simulated reviewer by what it refuses; a cell holds the share "
        f"refused, then yield, then distinct-3 of equally many kept samples; means over the "
        f"tasks that are in.\n\n{_named(table, heads)}"
    )


def _table(rows: Rows, *keys: str) -> str:
    return _named(rows, {key: key for key in keys}) if rows else "Not run."


def _named(rows: Rows, heads: dict[str, str]) -> str:
    lines = [_line(heads.values()), _line("---" for _ in heads)]
    lines += [_line(_cell(row.get(key)) for key in heads) for row in rows]
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Any) -> str:
    match value:
        case None:
            return "–"
        case {"value": float(v), "low": float(low), "high": float(high)}:
            return f"{_number(v)} ({_number(low)}–{_number(high)})"
        case list():
            return " ".join(_number(item["value"]) for item in value)
        case dict():
            parts = [
                f"{k} {v}" for part in ("guidance", "sampling") for k, v in value[part].items()
            ]
            return ", ".join(part for part in parts if not part.startswith("max_new"))
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def _value(estimate: dict[str, float] | None) -> str:
    return _number(estimate["value"]) if estimate else "–"


def _number(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"
