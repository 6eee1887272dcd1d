"""Searching settings: grids, random points, successive halving, Pareto fronts. Pure functions.

A space names fields by their dotted names and the values to try; a choice is one value of each.
Nothing here knows jobs or models: `search` takes any function that measures choices.
"""

import itertools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Choice = dict[str, Any]
Space = Mapping[str, Sequence[Any]]
Measured = Callable[[Sequence[int], int], Mapping[int, float | None]]
"""(positions of choices, samples to add to each) → the score of each on all its samples."""

# What calibration tries: γ of either sign, η, both masks, temperature and what is avoided.
CALIBRATION: Space = {
    "guidance.gamma": [-1.0, -0.5, 0.0, 0.25, 0.5],
    "guidance.eta": [0.0, 0.25, 0.5, 1.0],
    "guidance.nucleus": [0.9, 0.95, 1.0],
    "guidance.alpha": [0.0, 0.05, 0.1],
    "sampling.temperature": [0.8, 1.0, 1.3],
    "negatives.sources": [{"rejected": 2, "synthetic": 1}, {"synthetic": 1}, {"real": 1}],
}


@dataclass(frozen=True)
class Rung:
    """One round of a search: how many choices are in it, and how many samples each adds."""

    points: int
    samples: int


@dataclass(frozen=True)
class Found:
    """What a search found: positions by their last score, best first, and the samples made."""

    ranking: tuple[int, ...]
    scores: Mapping[int, float | None]
    samples: int


def size(space: Space) -> int:
    """How many choices the whole grid has."""
    total = 1
    for values in space.values():
        total *= len(values)
    return total


def grid(space: Space) -> list[Choice]:
    """Every choice, the last field changing fastest."""
    return [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]


def draw(space: Space, number: int, seed: int) -> list[Choice]:
    """`number` different choices of the grid at random; all of a smaller grid."""
    total = size(space)
    places = random.Random(seed).sample(range(total), min(number, total))
    return [_at(space, place) for place in places]


def halving(points: int, samples: int, last: int = 2) -> list[Rung]:
    """Successive halving (Jamieson & Talwalkar, arXiv 1502.07943): each round keeps the better
    half, rounded up, and doubles the samples that each of them has, until `last` are left."""
    rungs = [Rung(points, samples)]
    while rungs[-1].points > max(1, last):
        kept = max(last, (rungs[-1].points + 1) // 2)
        rungs.append(Rung(kept, sum(rung.samples for rung in rungs)))
    return rungs


def budget(rungs: Iterable[Rung]) -> int:
    """All samples that these rounds make."""
    return sum(rung.points * rung.samples for rung in rungs)


def best(scores: Mapping[int, float | None], keep: int) -> list[int]:
    """Positions of the `keep` highest scores, best first; the lower position first of equals.
    A choice without a score comes after all that have one."""

    def order(position: int) -> tuple[float, int]:
        score = scores[position]
        return (float("inf") if score is None else -score, position)

    return sorted(scores, key=order)[:keep]


def search(points: int, rungs: Sequence[Rung], measure: Measured) -> Found:
    """Run the rounds on `points` choices: each is measured, and the best go on."""
    left: Sequence[int] = range(points)
    scores: dict[int, float | None] = {}
    made = 0
    for rung in rungs:
        left = best(scores, rung.points) if scores else left
        made += len(left) * rung.samples
        scores = dict(measure(left, rung.samples))
    return Found(tuple(best(scores, len(scores))), scores, made)


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Positions of the points that none beats on one value and equals or beats on the other,
    by falling first value. Equal points are all kept."""
    order = sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1], i))
    front: list[int] = []
    highest = float("-inf")
    for i in order:
        tied = front and points[front[-1]] == points[i]
        if points[i][1] > highest or tied:
            front.append(i)
            highest = points[i][1]
    return front


def harmonic(one: float, other: float) -> float:
    """The harmonic mean of two shares; 0 when either is 0."""
    return 2 * one * other / (one + other) if one > 0 and other > 0 else 0.0


def _at(space: Space, place: int) -> Choice:
    """The choice at this place of the grid, without making the others."""
    values: list[tuple[str, Any]] = []
    for name, offered in reversed(list(space.items())):
        place, at = divmod(place, len(offered))
        values.append((name, offered[at]))
    return dict(reversed(values))
