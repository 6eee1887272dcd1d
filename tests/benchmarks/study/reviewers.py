"""Simulated reviewers: rules, not people. Each refuses one kind of text."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.benchmarks.study.beds import real_samples
from tests.benchmarks.study.measures import Copies
from tests.benchmarks.testbed import Grammar

ENTITIES = {"hypotheses": "sea ice", "comments": "beekeepers", "questions": "hammer"}
TURN = 3  # the round from which the reviewer who changes his mind refuses something else

Refuses = Callable[[str, int], bool]
"""(text, round from 1) → whether the text is refused."""


@dataclass(frozen=True)
class Reviewer:
    """A rule, and what it is tried on.

    regime   of the experts
    nucleus  the mask of all levers. Behind one of .95 next to nothing is incoherent, so those
             who refuse incoherence are tried without.
    """

    name: str
    regime: str
    of_task: Callable[[Grammar], Refuses]
    nucleus: float = 0.95


def theme(task: Grammar) -> Refuses:
    """Refuses the favourite theme."""
    return lambda text, _: task.theme(text) == task.favourite


def entity(task: Grammar) -> Refuses:
    """Refuses one entity of the favourite theme."""
    return lambda text, _: task.mentions(text, ENTITIES[task.name])


def incoherence(task: Grammar) -> Refuses:
    """Refuses what does not parse."""
    return lambda text, _: task.parse(text) is None


def near_copies(task: Grammar) -> Refuses:
    """Refuses what repeats most of a real sample."""
    copies = Copies(real_samples(task))
    return lambda text, _: copies.near(text)


def theme_or_incoherence(task: Grammar) -> Refuses:
    """Refuses the favourite theme, and what does not parse."""
    either = theme(task), incoherence(task)
    return lambda text, turn: any(refuses(text, turn) for refuses in either)


def changes_mind(task: Grammar) -> Refuses:
    """Refuses the favourite theme in the first rounds, then only another one."""
    other = other_theme(task)
    return lambda text, turn: task.theme(text) == (task.favourite if turn < TURN else other)


def other_theme(task: Grammar) -> str:
    """The theme that the reviewer who changes his mind refuses in the end."""
    return next(name for name in task.themes if name != task.favourite)


ONCE = (
    Reviewer("theme", "well fit", theme),
    Reviewer("entity", "well fit", entity),
    Reviewer("incoherence", "underfit", incoherence, nucleus=1.0),
    Reviewer("near-copies", "memorising", near_copies),
)
IN_ROUNDS = (
    Reviewer("theme", "well fit", theme),
    Reviewer("changes his mind", "well fit", changes_mind),
    Reviewer("theme or incoherence", "underfit", theme_or_incoherence, nucleus=1.0),
    Reviewer("near-copies", "memorising", near_copies),
)
