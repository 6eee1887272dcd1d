"""The study's figures as SVG, drawn from its tables."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from tests.benchmarks.study.report import Result, rows_of

WIDTH, HEIGHT, EDGE, TOP, FOOT = 250, 190, 44, 26, 36
COLOURS = (
    "#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#a463f2",
    "#97bbf5", "#9c6b4e", "#9498a0", "#3ca951", "#d6336c",
    "#1b7f79", "#7a5c00", "#b4a7d6", "#222b45",
)  # fmt: skip
STYLE = "font-family: system-ui, sans-serif; font-size: 11px; fill: #1f2328"


@dataclass(frozen=True)
class Series:
    """Points (x, y, low, high) of one name; a line where `joined`."""

    name: str
    points: Sequence[tuple[float, float, float, float]]
    joined: bool = False


@dataclass(frozen=True)
class Panel:
    """One small plot; (low, high) of each axis."""

    title: str
    series: Sequence[Series]
    x: tuple[float, float]
    y: tuple[float, float]


@dataclass(frozen=True)
class Figure:
    """Panels with one legend. colours: by name, the same in every panel."""

    title: str
    x_label: str
    y_label: str
    panels: Sequence[Panel]
    colours: dict[str, str]
    columns: int = 3

    def svg(self) -> str:
        """The whole picture."""
        lines = -(-len(self.panels) // self.columns)
        width = self.columns * WIDTH + 150
        height = lines * HEIGHT + 40
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" style="{STYLE}">',
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
            _text(EDGE, 18, self.title, "start", 14),
        ]
        for at, panel in enumerate(self.panels):
            left, top = at % self.columns * WIDTH, at // self.columns * HEIGHT + 24
            parts += [f'<g transform="translate({left} {top})">', *self._panel(panel), "</g>"]
        for at, (name, colour) in enumerate(self.colours.items()):
            left, top = self.columns * WIDTH + 10, 60 + 18 * at
            parts += [
                f'<circle cx="{left}" cy="{top - 4}" r="4" fill="{colour}"/>',
                _text(left + 10, top, name, "start"),
            ]
        return "\n".join([*parts, "</svg>\n"])

    def _panel(self, panel: Panel) -> Iterable[str]:
        bottom, right = HEIGHT - FOOT, WIDTH - 14
        yield _text(EDGE, TOP - 8, panel.title, "start")
        yield (f'<path d="M{EDGE} {TOP}V{bottom}H{right}" fill="none" stroke="#8c959f"/>')
        for share in (0.0, 0.5, 1.0):
            x, y = _between(panel.x, share), _between(panel.y, share)
            yield _text(EDGE + share * (right - EDGE), bottom + 13, f"{x:.3g}", "middle")
            yield _text(EDGE - 5, bottom - share * (bottom - TOP) + 4, f"{y:.2g}", "end")
        yield _text((EDGE + right) / 2, bottom + 27, self.x_label, "middle")
        yield _text(EDGE, TOP + 10, f" {self.y_label}", "start", 9)
        for series in panel.series:
            yield from self._series(panel, series)

    def _series(self, panel: Panel, series: Series) -> Iterable[str]:
        colour = self.colours[series.name]
        places = []
        for x, *ys in series.points:
            across = EDGE + _share(panel.x, x) * (WIDTH - 14 - EDGE)
            y, low, high = (HEIGHT - FOOT - _share(panel.y, v) * (HEIGHT - FOOT - TOP) for v in ys)
            places.append(f"{across:.1f},{y:.1f}")
            yield (
                f'<line x1="{across:.1f}" x2="{across:.1f}" y1="{low:.1f}" y2="{high:.1f}" '
                f'stroke="{colour}" stroke-opacity=".5"/>'
                f'<circle cx="{across:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}">'
                f"<title>{escape(series.name)}: {ys[0]:.3f}</title></circle>"
            )
        if series.joined:
            yield f'<polyline points="{" ".join(places)}" fill="none" stroke="{colour}"/>'


def draw(result: Result, folder: Path) -> list[Path]:
    """Write the figures of those parts that have rows; their files."""
    drawn = []
    for name, make in {"rules": _rules, "loop": _loop, "calibrate": _calibrate}.items():
        if rows := rows_of(result, name):
            file = folder / f"{name}.svg"
            file.write_text(make(rows).svg())
            drawn.append(file)
    return drawn


def _rules(rows: Sequence[dict[str, Any]]) -> Figure:
    panels = [
        Panel(
            f"{task}, {regime}",
            [
                Series(row["rule"], [(row["distinct3"]["value"], *_ends(row["coherence"]))])
                for row in some
            ],
            _range(row["distinct3"]["value"] for row in some),
            (0.0, 1.0),
        )
        for (task, regime), some in _cells(rows, "task", "regime").items()
    ]
    return Figure(
        "Rules, each tuned for yield",
        "distinct-3",
        "coherence",
        panels,
        _coloured(dict.fromkeys(row["rule"] for row in rows)),
    )


def _loop(rows: Sequence[dict[str, Any]]) -> Figure:
    panels = [
        Panel(
            f"{task}: refuses {reviewer}",
            [
                Series(
                    row["lever"],
                    [(turn, *_ends(one)) for turn, one in enumerate(row["by_round"], 1)],
                    joined=True,
                )
                for row in some
            ],
            (1, len(some[0]["by_round"])),
            (0.0, max(0.1, *(one["high"] for row in some for one in row["by_round"]))),
        )
        for (task, reviewer), some in _cells(rows, "task", "reviewer").items()
    ]
    title = "Refused in each round, with each lever"
    return Figure(
        title,
        "round",
        "share refused",
        panels,
        _coloured(dict.fromkeys(row["lever"] for row in rows)),
    )


def _calibrate(rows: Sequence[dict[str, Any]]) -> Figure:
    names = ("plain", "grid", "calibrated")
    panels = [
        Panel(
            f"{row['task']}, {row['regime']}",
            [Series(name, [(at, *_ends(row[f"{name}_yield"]))]) for at, name in enumerate(names)],
            (-0.5, 2.5),
            (0.0, 1.0),
        )
        for row in rows
    ]
    title = "Yield of the mask alone, the grid's best, and calibration's choice"
    return Figure(title, "", "yield", panels, _coloured(names))


def _cells(
    rows: Sequence[dict[str, Any]], *keys: str
) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def _coloured(names: Iterable[str]) -> dict[str, str]:
    return dict(zip(names, COLOURS, strict=False))


def _ends(estimate: dict[str, float]) -> tuple[float, float, float]:
    return estimate["value"], estimate["low"], estimate["high"]


def _range(values: Iterable[float]) -> tuple[float, float]:
    """Of an axis: the values with some air around them."""
    known = sorted(values)
    air = 0.1 * (known[-1] - known[0]) or 0.05
    return known[0] - air, known[-1] + air


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + share * (ends[1] - ends[0])


def _share(ends: tuple[float, float], value: float) -> float:
    return min(1.0, max(0.0, (value - ends[0]) / (ends[1] - ends[0])))


def _text(x: float, y: float, text: str, anchor: str, size: int = 11) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
    return f"<text {place}>{escape(text)}</text>"
