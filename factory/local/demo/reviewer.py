"""The demo's reviewer. SIMULATED: a rule, not a person. Standard library only.

It is tired of one theme and rejects every sample about it; it accepts everything else, coherent
or not. The theme was fixed before any model was trained.
"""

from dataclasses import dataclass
from typing import Literal

from factory.local.demo.corpus import FAVOURITE
from factory.local.demo.grammar import theme

REJECTED_THEME = FAVOURITE
NAME = "simulated reviewer"


@dataclass(frozen=True)
class Verdict:
    """What the reviewer says of one sample, in the words of the review form."""

    verdict: Literal["accept", "reject"]
    reasons: tuple[str, ...] = ()


def review(text: str) -> Verdict:
    """Reject a text of the rejected theme as off topic; accept any other."""
    if theme(text) == REJECTED_THEME:
        return Verdict("reject", ("off_topic",))
    return Verdict("accept")
