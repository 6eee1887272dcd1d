"""Charts of a sweep, as places in an SVG: coherence against diversity, and γ × η as a heatmap."""

from collections.abc import Sequence
from dataclasses import dataclass

from factory.web.pages.choices import Point, two
from factory.web.pages.words import lever

WIDTH, HEIGHT = 520.0, 320.0  # of the scatter, in its own units
LEFT, RIGHT, TOP, BOTTOM = 44.0, 16.0, 16.0, 40.0
CELL, ROW, HEAD, SIDE = 72.0, 44.0, 24.0, 56.0  # of the heatmap
STRONGEST, FAINTEST = 0.5, 0.04  # opacity of a cell: ink stays readable on it
GAMMA, ETA = "guidance.gamma", "guidance.eta"


@dataclass(frozen=True)
class Dot:
    """One of the settings in the scatter. `arms`: its 95 % intervals, as x1, x2, y1, y2."""

    point: Point
    x: float
    y: float
    arms: tuple[float, float, float, float]


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    said: str


@dataclass(frozen=True)
class Scatter:
    """Coherence to the right, diversity upwards. `line` joins the Pareto front of the last
    round that all settings were in, as an SVG path."""

    dots: Sequence[Dot]
    line: str
    across: Sequence[Tick]
    up: Sequence[Tick]


@dataclass(frozen=True)
class Cell:
    """The settings with one γ and one η: the mean of their objective."""

    x: float
    y: float
    said: str
    number: int
    opacity: float


@dataclass(frozen=True)
class Heatmap:
    """γ to the right, η upwards."""

    cells: Sequence[Cell]
    across: Sequence[Tick]
    up: Sequence[Tick]
    width: float
    height: float


def scatter(points: Sequence[Point], best: Point | None) -> Scatter | None:
    """Every measured setting; None when there are fewer than two."""
    shown = [p for p in points if {"coherence", "diversity"} <= p.measures.keys()]
    if len(shown) < 2:
        return None
    span_x = _span([p.measures["coherence"].value for p in shown])
    span_y = _span([p.measures["diversity"].value for p in shown])
    dots = [_dot(p, span_x, span_y) for p in shown]
    ordered = sorted(
        dots, key=lambda dot: (dot.point is best or dot.point.is_best, dot.point.front)
    )
    return Scatter(
        dots=ordered,
        line=_line([dot for dot in dots if dot.point.front and dot.point.round == _common(points)]),
        across=[Tick(_x(value, span_x), two(value)) for value in _marks(span_x)],
        up=[Tick(_y(value, span_y), two(value)) for value in _marks(span_y)],
    )


def heatmap(points: Sequence[Point], objective: str) -> Heatmap | None:
    """The mean objective by γ and η; None unless both were varied."""
    by_place: dict[tuple[float, float], list[float]] = {}
    for point in points:
        if {GAMMA, ETA} <= point.choice.keys() and objective in point.measures:
            place = float(point.choice[GAMMA]), float(point.choice[ETA])
            by_place.setdefault(place, []).append(point.measures[objective].value)
    tried = [point.choice for point in points if point.position != 0]
    gammas = sorted({float(choice[GAMMA]) for choice in tried if GAMMA in choice})
    etas = sorted({float(choice[ETA]) for choice in tried if ETA in choice}, reverse=True)
    if len(gammas) < 2 or len(etas) < 2:
        return None
    means = {
        (gamma, eta): sum(values) / len(values)
        for (gamma, eta), values in by_place.items()
        if gamma in gammas and eta in etas
    }
    low, high = min(means.values()), max(means.values())
    cells = [
        Cell(
            x=SIDE + gammas.index(gamma) * CELL,
            y=etas.index(eta) * ROW,
            said=two(means[gamma, eta]),
            number=len(by_place[gamma, eta]),
            opacity=_opacity(means[gamma, eta], low, high),
        )
        for gamma, eta in sorted(means)
    ]
    return Heatmap(
        cells=cells,
        across=[Tick(SIDE + (i + 0.5) * CELL, lever(gamma)) for i, gamma in enumerate(gammas)],
        up=[Tick((i + 0.5) * ROW, lever(eta)) for i, eta in enumerate(etas)],
        width=SIDE + len(gammas) * CELL,
        height=len(etas) * ROW + 2 * HEAD,
    )


def _dot(point: Point, span_x: tuple[float, float], span_y: tuple[float, float]) -> Dot:
    c, d = point.measures["coherence"], point.measures["diversity"]
    arms = (_x(c.low, span_x), _x(c.high, span_x), _y(d.high, span_y), _y(d.low, span_y))
    return Dot(point, _x(c.value, span_x), _y(d.value, span_y), arms)


def _common(points: Sequence[Point]) -> int:
    """The round that most settings ended in: their samples can be compared."""
    rounds = [point.round for point in points]
    return max(set(rounds), key=lambda each: (rounds.count(each), each))


def _line(front: Sequence[Dot]) -> str:
    ordered = sorted(front, key=lambda dot: dot.x)
    return "M" + " L".join(f"{dot.x:g} {dot.y:g}" for dot in ordered) if len(ordered) > 1 else ""


def _span(values: Sequence[float]) -> tuple[float, float]:
    """From and to a tenth, with room at both ends."""
    low, high = max(0.0, min(values) - 0.05), min(1.0, max(values) + 0.05)
    return int(low * 10) / 10, -int(-high * 10) / 10 if high * 10 % 1 == 0 else int(
        high * 10 + 1
    ) / 10


def _marks(span: tuple[float, float]) -> list[float]:
    low, high = round(span[0] * 10), round(span[1] * 10)
    step = 2 if high - low > 6 else 1
    return [tenth / 10 for tenth in range(low, high + 1, step)]


def _x(value: float, span: tuple[float, float]) -> float:
    return round(LEFT + _share(value, span) * (WIDTH - LEFT - RIGHT), 1)


def _y(value: float, span: tuple[float, float]) -> float:
    return round(HEIGHT - BOTTOM - _share(value, span) * (HEIGHT - TOP - BOTTOM), 1)


def _share(value: float, span: tuple[float, float]) -> float:
    """How far along, cut at both ends."""
    return min(1.0, max(0.0, (value - span[0]) / ((span[1] - span[0]) or 1.0)))


def _opacity(value: float, low: float, high: float) -> float:
    share = (value - low) / (high - low) if high > low else 1.0
    return round(FAINTEST + share * (STRONGEST - FAINTEST), 3)
