"""Wake-ups that are owed to workers. Written in the transaction of the work itself.

A wake-up is (task, key): `owe` in the producer's transaction, `take_due` by any number of
dispatchers, `settle` by the worker that has done the work. `version` tells a worker whether
more work was owed while it was busy, so that nothing owed is settled unseen.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from factory.tables import Outbox

CHANNEL = "outbox"  # NOTIFY channel that dispatchers listen on

RUN_SHARD = "workers.gpu.run_shard"  # key: shard
SERVE = "workers.gpu.serve"  # key: request
EMBED = "workers.cpu.embed"  # key: dataset
PUSH = "workers.cpu.push"  # key: dataset
HANDLE_EVENT = "workers.cpu.handle_event"  # key: webhook event
RECONCILE = "workers.cpu.reconcile"  # key: dataset


@dataclass(frozen=True)
class WakeUp:
    """One owed wake-up, as taken by a dispatcher."""

    task: str
    key: uuid.UUID


def owe(session: Session, task: str, *keys: uuid.UUID) -> None:
    """Owe `task` for each key, from now; a wake-up owed already is owed anew."""
    if not keys:
        return
    statement = insert(Outbox).values([{"task": task, "key": key} for key in keys])
    renewed = {"due_at": func.clock_timestamp(), "sends": 0, "version": Outbox.version + 1}
    session.execute(
        statement.on_conflict_do_update(index_elements=[Outbox.task, Outbox.key], set_=renewed)
    )
    session.execute(text(f"NOTIFY {CHANNEL}"))


def take_due(session: Session, *, limit: int, retry_seconds: float) -> Sequence[WakeUp]:
    """Wake-ups that are due, oldest first; each is due again after `retry_seconds`.

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
    again = func.clock_timestamp() + text(f"interval '{float(retry_seconds)} seconds'")
    for wake_up in taken:
        session.execute(
            update(Outbox)
            .where(Outbox.task == wake_up.task, Outbox.key == wake_up.key)
            .values(due_at=again, sends=Outbox.sends + 1)
        )
    return taken


def version(session: Session, task: str, key: uuid.UUID) -> int | None:
    """The version to settle later; None when nothing is owed."""
    return session.scalar(select(Outbox.version).where(Outbox.task == task, Outbox.key == key))


def settle(session: Session, task: str, key: uuid.UUID, version: int | None = None) -> None:
    """The work is done. With a `version`, only if nothing more was owed since it was read."""
    statement = delete(Outbox).where(Outbox.task == task, Outbox.key == key)
    session.execute(statement if version is None else statement.where(Outbox.version == version))
