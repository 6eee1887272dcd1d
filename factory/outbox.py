"""Wake-ups that are owed to workers. Written in the transaction of the work itself.

A wake-up is (task, key): `owe` in the producer's transaction, `take_due` by any number of
dispatchers, `settle` by the worker that has done the work. `version` tells a worker whether
more work was owed while it was busy, so that nothing owed is settled unseen.
"""

import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Uuid, delete, func, literal, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.orm import Session

from factory.tables import Outbox

CHANNEL = "outbox"  # NOTIFY channel that dispatchers listen on
ANY_VERSION = -1
MAX_BACKOFF = 8  # times the first wait: a long queue is not sent again and again

RUN_SHARD = "workers.gpu.run_shard"  # key: shard
MEASURE = "workers.cpu.run_shard"  # key: shard of an evaluate job or a sweep
SERVE = "workers.gpu.serve"  # key: request
EMBED = "workers.cpu.embed"  # key: dataset
PUSH = "workers.cpu.push"  # key: dataset
HANDLE_EVENT = "workers.cpu.handle_event"  # key: webhook event
DRAW_MAP = "workers.cpu.draw_map"  # key: dataset
RECONCILE = "workers.cpu.reconcile"  # key: dataset

LABEL_STUDIO = (PUSH, HANDLE_EVENT, RECONCILE)  # tasks that wait while it is away


def shard_task(kind: str) -> str:
    """The task that works on a shard of such a job."""
    return MEASURE if kind in ("evaluate", "sweep") else RUN_SHARD


@dataclass(frozen=True)
class WakeUp:
    """One owed wake-up, as taken by a dispatcher."""

    task: str
    key: uuid.UUID


def owe(session: Session, task: str, *keys: uuid.UUID) -> None:
    """Owe `task` for each key, from now; a wake-up owed already is owed anew.

    Each time it has another version, also after it was settled in between. Keys are locked in
    their order, so that two who owe the same ones do not wait for each other.
    """
    if not keys:
        return
    each = func.unnest(literal(sorted(set(keys)), ARRAY(Uuid)))
    fresh = secrets.randbelow(2**31)
    statement = insert(Outbox).from_select(
        ["task", "key", "version"], select(literal(task), each, literal(fresh))
    )
    renewed = {"due_at": func.clock_timestamp(), "sends": 0, "version": fresh}
    session.execute(
        statement.on_conflict_do_update(index_elements=[Outbox.task, Outbox.key], set_=renewed)
    )
    session.execute(text(f"NOTIFY {CHANNEL}"))


def take_due(session: Session, *, limit: int, retry_seconds: float) -> Sequence[WakeUp]:
    """Wake-ups that are due, oldest first; each is due again after `retry_seconds`, and after
    twice as long each further time, up to MAX_BACKOFF.

    Rows that another dispatcher is taking right now are passed over.
    """
    due = (
        select(Outbox.task, Outbox.key)
        .where(Outbox.due_at <= func.clock_timestamp())
        .order_by(Outbox.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    taken = [WakeUp(task, key) for task, key in session.execute(due)]
    waits = func.least(func.power(2, Outbox.sends), MAX_BACKOFF) * float(retry_seconds)
    again = func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, waits)
    for wake_up in taken:
        session.execute(
            update(Outbox)
            .where(Outbox.task == wake_up.task, Outbox.key == wake_up.key)
            .values(due_at=again, sends=Outbox.sends + 1)
        )
    return taken


def unanswered(session: Session, tasks: Sequence[str]) -> tuple[int, float]:
    """How many wake-ups of these tasks were sent and not settled, and the oldest's age (s)."""
    age = func.extract("epoch", func.clock_timestamp() - func.min(Outbox.created_at))
    statement = select(func.count(), func.coalesce(age, 0))
    sent = statement.where(Outbox.task.in_(tasks), Outbox.sends > 0)
    number, oldest = session.execute(sent).one()
    return number, float(oldest)


def is_repeated(session: Session, tasks: Sequence[str]) -> bool:
    """Whether a wake-up of these tasks was sent again, and is not due to be sent once more yet."""
    waiting = Outbox.sends > 1, Outbox.due_at > func.clock_timestamp()
    statement = select(Outbox.key).where(Outbox.task.in_(tasks), *waiting)
    return session.scalar(statement.limit(1)) is not None


def version(session: Session, task: str, key: uuid.UUID) -> int | None:
    """The version to settle later; None when nothing is owed."""
    return session.scalar(select(Outbox.version).where(Outbox.task == task, Outbox.key == key))


def postpone(session: Session, task: str, key: uuid.UUID, seconds: float) -> None:
    """What is owed cannot be done now: it is due anew after `seconds`, as if never sent."""
    due = func.clock_timestamp() + func.make_interval(0, 0, 0, 0, 0, 0, float(seconds))
    statement = update(Outbox).where(Outbox.task == task, Outbox.key == key)
    session.execute(statement.values(due_at=due, sends=0))


def hasten(session: Session, tasks: Sequence[str]) -> None:
    """Whatever is owed of these tasks is due at once."""
    now = func.clock_timestamp()
    late = update(Outbox).where(Outbox.task.in_(tasks), Outbox.due_at > now, Outbox.sends == 0)
    session.execute(late.values(due_at=now))
    session.execute(text(f"NOTIFY {CHANNEL}"))


def settle(session: Session, task: str, key: uuid.UUID, version: int | None = ANY_VERSION) -> None:
    """The work is done. With a `version` that was read before the work, only if nothing more
    was owed since; None: nothing was owed then, so what is owed now was not seen."""
    if version is None:
        return
    statement = delete(Outbox).where(Outbox.task == task, Outbox.key == key)
    if version != ANY_VERSION:
        statement = statement.where(Outbox.version == version)
    session.execute(statement)
