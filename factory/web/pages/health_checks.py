"""Whether the parts that pages depend on do their work, in words."""

from dataclasses import dataclass

from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy.orm import Session

from factory import degraded, dispatch, outbox, shards
from factory.web.pages import words
from factory.web.state import State

LATE_SECONDS = 90  # a wake-up that nobody has settled for so long says that no worker works


@dataclass(frozen=True)
class Check:
    """One part: whether it is well, what is seen, and how to mend it."""

    name: str
    good: bool
    seen: str
    mend: str = ""


def all_of(session: Session, state: State) -> list[Check]:
    """Every check, on a database that answers."""
    database, *rest = quick(session, state)
    return [database, _broker(state), *rest]


def quick(session: Session, state: State) -> list[Check]:
    """Those that the database answers; asking a broker may take seconds."""
    return [
        Check("Database", True, "It answers."),
        _gpu_worker(session),
        _cpu_worker(session),
        _label_studio(session, state),
    ]


def _broker(state: State) -> Check:
    try:
        dispatch.ping(state.broker)
    except (BrokerError, OSError) as error:
        return Check(
            "Broker",
            False,
            f"It does not answer ({type(error).__name__}). Work waits in the database, none is "
            "lost.",
            "Start the broker that FACTORY_BROKER_URL names, or `factory up`.",
        )
    return Check("Broker", True, "It answers.")


def _gpu_worker(session: Session) -> Check:
    """Long queues are fine while shards are being made."""
    waiting, oldest = outbox.unanswered(session, (outbox.RUN_SHARD, outbox.SERVE))
    running = shards.running(session)
    if running:
        return Check("GPU worker", True, f"Busy with {running}, {waiting} waiting.")
    return _worker("GPU worker", waiting, oldest, "factory worker gpu")


def _cpu_worker(session: Session) -> Check:
    """These tasks need nothing but this worker, so what waits tells of nothing else."""
    waiting, oldest = outbox.unanswered(session, (outbox.EMBED, outbox.MEASURE, outbox.DRAW_MAP))
    return _worker("CPU worker", waiting, oldest, "factory worker cpu")


def _worker(name: str, waiting: int, oldest: float, command: str) -> Check:
    if oldest < LATE_SECONDS:
        return Check(name, True, f"{waiting} waiting." if waiting else "Nothing waits.")
    return Check(
        name,
        False,
        f"{waiting} waiting, the oldest for {words.duration(oldest)}.",
        f"Is one running? Start one with `{command}`, and look into its log.",
    )


def _label_studio(session: Session, state: State) -> Check:
    if not state.settings.label_studio_url:
        seen = f"None is set up: FACTORY_LABEL_STUDIO_URL. {degraded.waits(session)}."
        return Check("Label Studio", True, seen)
    found = degraded.label_studio(session, state.settings)
    if found is None:
        return Check("Label Studio", True, "Samples reach it.")
    since = f"Since {found.since:%d %b %H:%M:%S} UTC: " if found.since else ""
    return Check("Label Studio", False, since + found.seen, found.mend)
