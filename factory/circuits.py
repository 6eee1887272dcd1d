"""A circuit for each service that we call and that may be away: after failures one after another
nobody calls it for a growing time, then one call tries whether it is back.

The row in Postgres is the truth for every process. `retry_at` says all:

    none           calls go
    in the future  nobody calls
    in the past    the first to ask makes one call, the probe, and sets it anew meanwhile

A probe's success closes the circuit; its failure opens it anew, never for less than the service
asked of anyone (`asked_until`). Of a probe that never comes to an end, PROBE_SECONDS later
another takes its place.
"""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from factory.errors import HeldBack
from factory.tables import Circuit

LABEL_STUDIO = "Label Studio"

THRESHOLD = 3  # failures, one after another, until calls stop
LONGEST = 24  # times the first pause
LONGEST_ASKED = 3600.0  # seconds that a service may ask for (Retry-After)
PROBE_SECONDS = 60.0


@dataclass(frozen=True)
class Turn:
    """Leave to make one call. `is_clean`: no failure was known, so a success is no news."""

    is_probe: bool = False
    is_clean: bool = False


def find(session: Session, name: str) -> Circuit | None:
    """The circuit of a service that fails now; None when nothing is known against it."""
    circuit = session.get(Circuit, name)
    return circuit if circuit is not None and circuit.failures else None


def ask(session: Session, name: str) -> Turn:
    """Leave to call the service. Raises HeldBack while it is given time."""
    if find(session, name) is None:
        return Turn(is_clean=True)
    return take_turn(_locked(session, name), _now(session))


def failed(
    session: Session,
    name: str,
    turn: Turn,
    error: str,
    first: float,
    retry_after: float | None = None,
) -> None:
    """The call failed. `first`: the shortest pause; `retry_after`: what the service asked for (s).

    Run twice, it counts twice: no more than a longer pause.
    """
    session.execute(insert(Circuit).values(name=name).on_conflict_do_nothing())
    note_failure(_locked(session, name), turn, _now(session), error, first, retry_after or 0.0)


def succeeded(session: Session, name: str, turn: Turn) -> bool:
    """The call was answered; returns whether this closed the circuit."""
    return not turn.is_clean and note_success(_locked(session, name), turn, _now(session))


def seconds_left(session: Session, name: str, first: float) -> float:
    """How long who waits for the service should wait: at least `first` seconds."""
    circuit = session.get(Circuit, name)
    if circuit is None or circuit.retry_at is None:
        return first
    return max(first, (circuit.retry_at - _now(session)).total_seconds())


def take_turn(circuit: Circuit, now: datetime) -> Turn:
    """The rule of `ask` on a locked row."""
    if circuit.retry_at is None:
        return Turn()
    if circuit.retry_at > now:
        raise HeldBack(
            f"{circuit.name} is left alone until {circuit.retry_at:%FT%TZ}: {circuit.error}"
        )
    circuit.retry_at = now + timedelta(seconds=PROBE_SECONDS)
    return Turn(is_probe=True)


def note_failure(
    circuit: Circuit, turn: Turn, now: datetime, error: str, first: float, retry_after: float = 0.0
) -> None:
    """The rule of `failed`. Failures of calls that were under way when others stopped tell
    nothing new; only what the service asked for counts of them."""
    held = circuit.retry_at is not None and circuit.retry_at > now and not turn.is_probe
    circuit.since = circuit.since or now
    circuit.error = error
    if retry_after:
        asked = now + timedelta(seconds=min(retry_after, LONGEST_ASKED))
        circuit.asked_until = max(circuit.asked_until or asked, asked)
    ends = [circuit.asked_until]
    if held:
        ends.append(circuit.retry_at)
    else:
        circuit.failures += 1
        if turn.is_probe or circuit.failures >= THRESHOLD:
            ends.append(now + timedelta(seconds=pause(circuit.failures, first)))
    circuit.retry_at = max((end for end in ends if end), default=None)


def note_success(circuit: Circuit, turn: Turn, now: datetime) -> bool:
    """The rule of `succeeded`. A call that began before the service was left alone proves
    nothing."""
    was_open = circuit.retry_at is not None
    if was_open and not turn.is_probe:
        return False
    circuit.failures, circuit.since, circuit.error = 0, None, None
    circuit.retry_at, circuit.asked_until = None, None
    return was_open


def pause(failures: int, first: float) -> float:
    """Seconds after so many failures: doubling from `first`, the upper half of it by chance."""
    doublings = min(max(0, failures - THRESHOLD), LONGEST)
    return first * min(2.0**doublings, LONGEST) * random.uniform(0.5, 1.0)


def _locked(session: Session, name: str) -> Circuit:
    return session.get_one(Circuit, name, with_for_update=True, populate_existing=True)


def _now(session: Session) -> datetime:
    now: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
    return now
