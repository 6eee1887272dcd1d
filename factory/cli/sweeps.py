"""What a sweep found, as a table and a few sentences."""

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from factory.cli.output import table
from factory.spec import SWEEP_FIELDS

MEASURES = ("harmonic", "coherence", "diversity", "yield", "verbatim")


def found(result: Mapping[str, Any]) -> list[RenderableType]:
    """The settings, last round and best first; what is recommended; how the expert is fitted."""
    told = result.get("recommendation")
    points = [point for point in result["points"] if "measures" in point]
    objective = told["objective"] if told else MEASURES[0]
    points.sort(key=lambda p: (-p["round"], -(_value(p, objective) or 0.0)))
    rows = [
        (
            point["position"],
            _said(point["choice"]),
            *(_value(point, name) for name in MEASURES),
            point["measures"]["harmonic"]["n"],
        )
        for point in points
    ]
    shown: list[RenderableType] = [table(("no.", "settings", *MEASURES, "n"), rows)]
    return [*shown, *map(Text, _sentences(result, told))]


def _sentences(result: Mapping[str, Any], told: Mapping[str, Any] | None) -> list[str]:
    fit = result.get("fit")
    said = [f"The expert is {fit['verdict']}. {' '.join(fit['because'])}"] if fit else []
    said += [fit["context"]] if fit and fit["context"] else []
    if told is None:
        return said
    choice = next(p["choice"] for p in result["points"] if p["position"] == told["position"])
    score, gain = told["score"], told["gain"]
    said.append(f"Recommended: no. {told['position']}, {_said(choice)}.")
    if gain["value"] is not None:
        interval = f"{score['low']:.2f} to {score['high']:.2f}"
        more = f"{gain['value']:+.2f} ({gain['low']:+.2f} to {gain['high']:+.2f})"
        verdict = "more than chance" if told["sure"] else "not more than chance would give"
        said.append(
            f"{told['objective']} {score['value']:.2f} ({interval}); "
            f"against no guidance {more}, {verdict}."
        )
    return said


def _said(choice: Mapping[str, Any]) -> str:
    named = ((field.rpartition(".")[2], choice[field]) for field in SWEEP_FIELDS if field in choice)
    return ", ".join(f"{name} {value}" for name, value in named)


def _value(point: Mapping[str, Any], name: str) -> float | None:
    found = point["measures"].get(name)
    return None if found is None else found["value"]
