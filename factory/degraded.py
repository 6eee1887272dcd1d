"""What does not work while samples are still made, in words for whoever runs the factory.

So far that is Label Studio alone. The row of its circuit tells what the workers met; nobody is
called from here.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from factory import circuits, pushes
from factory.circuits import LABEL_STUDIO
from factory.settings import Settings


@dataclass(frozen=True)
class Degraded:
    """One part: what is seen of it, since when (where that is known), and how to mend it."""

    part: str
    seen: str
    mend: str
    since: datetime | None = None

    def __str__(self) -> str:
        since = f" since {self.since:%FT%TZ}" if self.since else ""
        return f"{self.part}{since}: {self.seen} {self.mend}"


def label_studio(session: Session, settings: Settings) -> Degraded | None:
    """Whether and why samples do not reach Label Studio; None when they do, or none is set."""
    if not settings.label_studio_url:
        return None
    waiting = waits(session)
    circuit = circuits.find(session, LABEL_STUDIO)
    if circuit is not None:
        again = f" It is tried again at {circuit.retry_at:%TZ}." if circuit.retry_at else ""
        return Degraded(
            "label_studio",
            f"{_sentence(circuit.error)} Samples are made meanwhile; {waiting}.{again}",
            "Start it, or look into its log; what waits follows by itself.",
            circuit.since,
        )
    error = pushes.first_error(session)
    if error is not None:
        return Degraded(
            "label_studio",
            f"Samples cannot be sent: {_sentence(error)} Samples are made meanwhile; {waiting}.",
            "Mend what is named; what waits follows by itself.",
        )
    return None


def waits(session: Session) -> str:
    """How much waits for Label Studio."""
    number = pushes.number_waiting(session)
    return f"{number:,} {'sample waits' if number == 1 else 'samples wait'} to be sent"


def _sentence(error: str | None) -> str:
    return f"{(error or '').rstrip('. ')}."
