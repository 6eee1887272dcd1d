"""What the study was made to find out, each question with a target, and what was found."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from tests.benchmarks.study.compare import verdicts
from tests.benchmarks.study.reviewers import TURN

Rows = Sequence[Mapping[str, Any]]
Estimates = Sequence[Mapping[str, float]]
OURS, CONTROL = "recommended", "none"


def aims(parts: Mapping[str, Rows]) -> list[dict[str, Any]]:
    """A line for every question that the rows which are in can answer."""
    return [
        *_three(parts["three"]),
        *_loop(parts["loop"]),
        *_variety(parts["loop"]),
        *_mind(parts["loop"]),
        *_entity(parts["levers"]),
        *_rules(parts["rules"]),
        *_calibrated(parts["calibrate"]),
    ]


def over_tasks(estimates: Estimates) -> dict[str, float] | None:
    """The mean of independent estimates, with its interval."""
    if not estimates:
        return None
    value = fmean(e["value"] for e in estimates)
    low = sum((e["value"] - e["low"]) ** 2 for e in estimates) ** 0.5 / len(estimates)
    high = sum((e["high"] - e["value"]) ** 2 for e in estimates) ** 0.5 / len(estimates)
    return {"value": value, "low": value - low, "high": value + high}


def _three(rows: Rows) -> Iterator[dict[str, Any]]:
    for eta in sorted({row["eta"] for row in rows}):
        of = [row for row in rows if row["eta"] == eta]
        found = ", ".join(f"{row['task']} {_less(row)}" for row in of)
        met = all(10 * row["with_three"]["value"] <= row["without"]["value"] for row in of)
        yield _line(f"three rejections cut their theme's share tenfold (η = {eta:g})", found, met)


def _less(row: Mapping[str, Any]) -> str:
    return f"{_said(row['without'])} → {_said(row['with_three'])}"


def _loop(rows: Rows) -> Iterator[dict[str, Any]]:
    aims_ = {"theme": ("at most a tenth", 0.1), "theme or incoherence": ("at most half", 0.5)}
    for reviewer, (words, most) in aims_.items():
        ours, none = (_mean(rows, reviewer, lever, "rejected") for lever in (OURS, CONTROL))
        if ours and none:
            met = ours["value"] <= most * none["value"]
            aim = f"recommended levers, {reviewer} refused: {words} of what is refused with none"
            yield _line(aim, f"{_said(none)} → {_said(ours)}", met)
    copies = _mean(rows, "near-copies", OURS, "near_copies")
    if copies:
        yield _line("recommended levers: no near-copies", _said(copies), copies["value"] == 0)


def _variety(rows: Rows) -> Iterator[dict[str, Any]]:
    for reviewer in dict.fromkeys(row["reviewer"] for row in rows):
        ours, none = (_mean(rows, reviewer, lever, "distinct3_kept") for lever in (OURS, CONTROL))
        if ours and none:
            change = ours["value"] / none["value"] - 1
            aim = f"{reviewer} refused: distinct-3 of accepted samples at most 5 % below none's"
            found = f"{_said(none)} → {_said(ours)} ({change:+.0%})"
            yield _line(aim, found, change >= -0.05)


def _mind(rows: Rows) -> Iterator[dict[str, Any]]:
    """Two rounds after the change of mind: is the first theme back, and the other one gone?"""
    for lever in (OURS, "negatives"):
        mine, none = (_rows(rows, "changes his mind", which) for which in (lever, CONTROL))
        if mine and none and len(mine[0]["by_round"]) >= TURN + 2:
            at = TURN + 1  # the second round that knows of it
            back, before = (_at(some, "favourite_by_round", at) for some in (mine, none))
            gone, there = (_at(some, "by_round", at) for some in (mine, none))
            found = (
                f"first theme {_said(back)} (none: {_said(before)}); "
                f"refused {_said(gone)} ({_said(there)})"
            )
            met = back["value"] >= 0.8 * before["value"] and gone["value"] <= 0.5 * there["value"]
            aim = f"{lever}: two rounds after a change of mind the first theme is back"
            yield _line(aim, found, met)


def _entity(rows: Rows) -> Iterator[dict[str, Any]]:
    for lever in (OURS, "centred negatives", "centred negatives, η = 2"):
        mine, none = (_rows(rows, "entity", which) for which in (lever, CONTROL))
        if mine and none:
            less, before = (_over(some, "rejected") for some in (mine, none))
            theme, natural = (_over(some, "theme_share") for some in (mine, none))
            dropped = (natural["value"] - before["value"]) / (1 - before["value"])
            found = (
                f"entity {_said(before)} → {_said(less)}; theme {_said(natural)} → {_said(theme)} "
                f"({dropped:.3f} if the entity alone went)"
            )
            met = less["value"] <= 0.25 * before["value"] and theme["value"] >= 0.8 * dropped
            yield _line(f"{lever}: an entity that is refused goes, its theme stays", found, met)


def _rules(rows: Rows) -> Iterator[dict[str, Any]]:
    if rows:
        found = verdicts([dict(row) for row in rows])
        cells = len(found["cells"])
        kept = found["not_beaten"]
        aim = "no rule better than tuned STEER on both coherence and distinct-3"
        yield _line(aim, f"{kept} of {cells} cells", kept == cells)
        ahead = found["ahead_of_nucleus"]
        aim = "tuned STEER ahead of tuned nucleus on yield in six of nine cells"
        clear = found["ahead_beyond_interval"]
        text = f"{ahead} of {cells} cells, {clear} beyond the intervals"
        yield _line(aim, text, 3 * ahead >= 2 * cells)


def _calibrated(rows: Rows) -> Iterator[dict[str, Any]]:
    if rows:
        within = sum(row["within"] for row in rows)
        most = max(row["share_of_samples"] for row in rows)
        worst = min(row["ratio"] for row in rows)
        text = f"{within} of {len(rows)} cells, worst {worst:.2f}, with {most:.0%} of the samples"
        aim = "calibration within 5 % of the grid's best yield with a quarter of its samples"
        yield _line(aim, text, within == len(rows) and most <= 0.25)


def _line(aim: str, found: str, met: bool) -> dict[str, Any]:
    return {"aim": aim, "found": found, "met": met}


def _rows(rows: Rows, reviewer: str, lever: str) -> Rows:
    return [row for row in rows if (row["reviewer"], row["lever"]) == (reviewer, lever)]


def _mean(rows: Rows, reviewer: str, lever: str, key: str) -> dict[str, float] | None:
    return over_tasks([row[key] for row in _rows(rows, reviewer, lever) if row[key]])


def _over(rows: Rows, key: str) -> dict[str, float]:
    return over_tasks([row[key] for row in rows]) or {}


def _at(rows: Rows, key: str, at: int) -> dict[str, float]:
    return over_tasks([row[key][at] for row in rows]) or {}


def _said(estimate: Mapping[str, float]) -> str:
    return f"{estimate['value']:.3f}"
