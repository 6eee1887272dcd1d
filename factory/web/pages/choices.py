"""The settings that a sweep tried, in words, with what was measured of each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from factory import search
from factory.spec import SWEEP_FIELDS, GuidanceSpec, NegativesSpec, SamplingSpec
from factory.tables import Job
from factory.web.pages.words import lever, plain

SHORT = {
    "guidance.rule": "rule",
    "guidance.gamma": "γ",
    "guidance.eta": "η",
    "guidance.alpha": "floor α",
    "guidance.nucleus": "mass",
    "negatives.count": "negatives",
    "negatives.strategy": "chosen",
    "negatives.center": "centre",
    "sampling.temperature": "T",
    "sampling.top_k": "top-k",
    "sampling.top_p": "top-p",
    "sampling.min_p": "min-p",
    "sampling.typical_p": "typical-p",
}
SAID = (*SHORT, "negatives.sources")
GROUPS = {"guidance": GuidanceSpec, "negatives": NegativesSpec, "sampling": SamplingSpec}
UNGUIDED = "without guidance"


@dataclass(frozen=True)
class Measure:
    """A measured share with its interval."""

    value: float
    low: float
    high: float

    @property
    def said(self) -> str:
        """.61"""
        return two(self.value)

    @property
    def interval(self) -> str:
        """.55 to .67"""
        return f"{two(self.low)} to {two(self.high)}"


@dataclass(frozen=True)
class Point:
    """One of the settings. `measures` has those that are known; `front`: nobody beats it on
    coherence and diversity."""

    position: int
    name: str
    choice: Mapping[str, Any]
    round: int
    samples: int
    measures: Mapping[str, Measure]
    texts: Sequence[str]
    error: str | None
    front: bool = False
    is_best: bool = False


def measured(job: Job) -> list[Point]:
    """The measured settings of a sweep: those of the last round first, then by the objective."""
    result = job.result or {}
    objective = job.spec["objective"]
    found = [point for point in result.get("points", ()) if "measures" in point]
    front = _front(found)
    best = (result.get("recommendation") or {}).get("position")
    points = [_point(each, each["position"] in front, each["position"] == best) for each in found]
    return sorted(points, key=lambda point: (-point.round, -_score(point, objective)))


def recommended(job: Job) -> Point | None:
    """The settings that a sweep recommends; None while it runs."""
    return next((point for point in measured(job) if point.is_best), None)


def name_of(choice: Mapping[str, Any]) -> str:
    """A choice in one line: γ −.25 · η .5 · mass .9."""
    if choice == {"guidance.gamma": 0, "guidance.eta": 0}:
        return UNGUIDED
    return " · ".join(_said(field, choice[field]) for field in SWEEP_FIELDS if field in choice)


def defaults_said(defaults: Mapping[str, Any]) -> str:
    """A dataset's defaults in one line, as far as they are no usual ones."""
    usual = {group: kind().model_dump(mode="json") for group, kind in GROUPS.items()}
    choice = {
        f"{group}.{name}": value
        for group in GROUPS
        for name, value in (defaults.get(group) or {}).items()
        if name in ("gamma", "eta") or value != usual[group][name]
    }
    return name_of({field: value for field, value in choice.items() if field in SAID})


def two(value: float) -> str:
    """Two digits after the point, without the zero before it."""
    return f"{value:.2f}".replace("-", "−").replace("0.", ".", 1).replace("1.00", "1")


def _said(field: str, value: Any) -> str:
    if field == "preset":
        return str(value)
    if field == "negatives.sources":
        parts = [f"{plain(source)} {lever(weight)}" for source, weight in value.items() if weight]
        return "away from " + ", ".join(parts)
    said = lever(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    return f"{SHORT.get(field, field)} {said}"


def _point(found: Mapping[str, Any], front: bool, best: bool) -> Point:
    known = {name: each for name, each in found["measures"].items() if each["value"] is not None}
    return Point(
        position=found["position"],
        name=name_of(found["choice"]),
        choice=found["choice"],
        round=found["round"],
        samples=max((each["n"] for each in found["measures"].values()), default=0),
        measures={
            name: Measure(each["value"], each["low"], each["high"]) for name, each in known.items()
        },
        texts=found["texts"],
        error=found["error"],
        front=front,
        is_best=best,
    )


def _front(found: Sequence[Mapping[str, Any]]) -> set[int]:
    """Positions on the Pareto front of each round: samples of one number are compared."""
    by_round: dict[int, list[tuple[int, tuple[float, float]]]] = {}
    for point in found:
        both = [point["measures"].get(name, {}).get("value") for name in ("coherence", "diversity")]
        if None not in both:
            place = (point["position"], (both[0], both[1]))
            by_round.setdefault(point["round"], []).append(place)
    return {
        some[i][0] for some in by_round.values() for i in search.pareto([both for _, both in some])
    }


def _score(point: Point, objective: str) -> float:
    return point.measures[objective].value if objective in point.measures else -1.0
