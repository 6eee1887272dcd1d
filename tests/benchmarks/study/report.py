"""The study's results as Markdown: all of them, and the short form that the README shows."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from tests.benchmarks.study.compare import verdicts
from tests.benchmarks.study.rules import RULES
from tests.benchmarks.testbed import TASKS

Result = dict[str, Any]
Rows = Sequence[dict[str, Any]]
SHOWN = ("rejected", "yield", "distinct3_kept", "theme_share")
THEME_LEFT = ("entity", "changes his mind")  # whose favourite theme should be there in the end
START, END = "<!-- study: begin -->", "<!-- study: end -->"


def markdown(result: Result) -> str:
    """Everything."""
    parts = [
        "# The study",
        _how(result),
        "## Does context matter?\n\nNats a token that a context adds to the log-probability of an "
        "unseen sample: its three nearest real samples, or the sample itself.",
        _table(result["context"], "task", "model", "nearest", "itself"),
        "## Three rejections\n\nThe favourite theme's share, without and with three rejected "
        "samples of it as negatives.",
        _table(
            result["three"],
            *("task", "theme", "eta", "without", "with_three", "times", "at_least", "coherence"),
        ),
        "## Rules\n\nEach tuned for yield on another expert; distinct-3 at one size; AUROC of a "
        "classifier against real samples that no model has seen (.5: cannot tell).",
        _table(
            result["rules"],
            *("task", "regime", "rule", "coherence", "distinct3", "yield", "copies", "auroc"),
            "setting",
        ),
        _rules_in_words(result["rules"]),
        "## Rejections, once\n\nDistinct-3 of equally many kept samples of every lever.",
        _table(
            result["levers"],
            *("task", "reviewer", "regime", "lever", "rejected", "theme_share", "coherence"),
            *("distinct3_kept", "yield"),
        ),
        "## Rejections, round after round\n\nMean of the last two of the rounds.",
        _table(
            result["loop"],
            *("task", "reviewer", "regime", "lever", "rejected", "audit_rejected"),
            *("distinct3_kept", "yield", "by_round", "favourite_by_round"),
        ),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def short(result: Result) -> str:
    """What the README shows."""
    parts = [
        _how(result),
        _three_in_short(result),
        _rules_in_short(result["rules"]),
        _levers_in_short("Rejections acted on once", result["levers"]),
        _levers_in_short(
            "Rejections acted on in rounds of 100 reviews: the last two of five", result["loop"]
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
    sizes, missing = (
        result["sizes"],
        [part for part, done in result["complete"].items() if not done],
    )
    text = (
        f"Made on {result['date']} by `make study`: {sizes['seeds']} seeds (each an expert of its "
        f"own, and its own noise), {sizes['samples']} samples a seed and figure "
        f"({round(0.8 * sizes['reviews'])} a round of the loop), {sizes['tuning']} for each "
        f"setting that a rule is tuned over; in brackets 95 % intervals."
    )
    return f"{text} Not run to its end: {', '.join(missing)}." if missing else text


def _three_in_short(result: Result) -> str:
    gains = {row["task"]: row["nearest"] for row in result["context"] if row["model"] == "well fit"}
    rows = [row | {"gain": gains.get(row["task"])} for row in result["three"]]
    if not rows:
        return ""
    heads = {
        "task": "task",
        "gain": "nats a token that nearest samples add",
        "eta": "η",
        "without": "theme's share",
        "with_three": "with three rejections",
        "times": "times less",
        "coherence": "coherence",
    }
    return _named(rows, heads)


def _rules_in_short(rows: Rows) -> str:
    if not rows:
        return ""
    rows = [row for row in rows if _has_all(rows, row)]
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
    complete = [row for row in rows if _has_all(rows, row)]
    if not complete:
        return ""
    found = verdicts(complete)
    cells = len(found["cells"])
    beaten = [
        f"{cell['task']}, {cell['regime']}: {', '.join(cell['beaten_by'])}"
        for cell in found["cells"]
        if cell["beaten_by"]
    ]
    return (
        f"Of {cells} cells, STEER is beaten on both coherence and distinct-3 beyond the intervals "
        f"in {cells - found['not_beaten']}{f' ({beaten})' if beaten else ''}. Its yield is above "
        f"tuned nucleus sampling's in {found['ahead_of_nucleus']}, beyond the intervals in "
        f"{found['ahead_beyond_interval']}, and below beyond them in "
        f"{found['behind_beyond_interval']}."
    )


def _has_all(rows: Rows, row: dict[str, Any]) -> bool:
    """Whether a row's cell has every rule."""
    cell = {r["rule"] for r in rows if (r["task"], r["regime"]) == (row["task"], row["regime"])}
    return cell >= set(RULES)


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
            found = {key: _over_tasks([row[key] for row in members if row[key]]) for key in SHOWN}
            refused, use, variety, theme = (found[key] for key in SHOWN)
            line[reviewer] = f"{_cell(refused)}; {_value(use)}; {_value(variety)}"
            if reviewer in THEME_LEFT:
                line[f"{reviewer}: favourite theme"] = _cell(theme)
        table.append(line)
    heads = {"lever": "lever"} | {key: key for line in table for key in line if key != "lever"}
    tasks = {row["reviewer"]: set[str]() for row in rows}
    for row in rows:
        tasks[row["reviewer"]].add(row["task"])
    fewer = [f"{name}: {len(some)}" for name, some in tasks.items() if len(some) < len(TASKS)]
    note = f" Tasks that are in: {', '.join(fewer)}." if fewer else ""
    return (
        f"{title}. A column is a simulated reviewer by what it refuses; a cell holds the share "
        f"refused, then yield, then distinct-3 of equally many kept samples; means over the "
        f"tasks.{note}\n\n{_named(table, heads)}"
    )


def _over_tasks(estimates: Sequence[dict[str, float]]) -> dict[str, float] | None:
    """The mean of independent estimates, with its interval."""
    if not estimates:
        return None
    value = fmean(e["value"] for e in estimates)
    low = sum((e["value"] - e["low"]) ** 2 for e in estimates) ** 0.5 / len(estimates)
    high = sum((e["high"] - e["value"]) ** 2 for e in estimates) ** 0.5 / len(estimates)
    return {"value": value, "low": value - low, "high": value + high}


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
        case float():
            return f"{value:g}"
        case _:
            return str(value)


def _value(estimate: dict[str, float] | None) -> str:
    return _number(estimate["value"]) if estimate else "–"


def _number(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"
