"""Interactive work for a GPU worker: replay, explanation and preview. Served before any shard."""

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from factory import outbox
from factory.errors import FactoryError, NotFound
from factory.tables import Request

KINDS = ("replay", "explanation", "preview")
ATTEMPTS = 2  # a request that ended so many workers is given up


def create(session: Session, kind: str, payload: dict[str, Any]) -> Request:
    """Ask for something; a GPU worker is woken at once."""
    request = Request(kind=kind, payload=payload)
    session.add(request)
    session.flush()
    outbox.owe(session, outbox.SERVE, request.id)
    return request


def get(session: Session, request_id: uuid.UUID) -> Request:
    """The request of this id. Raises NotFound."""
    request = session.get(Request, request_id)
    if request is None:
        raise NotFound(f"There is no request {request_id}.")
    return request


def pending(session: Session) -> Sequence[uuid.UUID]:
    """Requests that wait for an answer, oldest first."""
    statement = select(Request.id).where(Request.done_at.is_(None)).order_by(Request.id)
    return session.scalars(statement.limit(100)).all()


def attempts(session: Session, request_id: uuid.UUID) -> int:
    """How often the request was begun so far."""
    return session.scalar(select(Request.attempts).where(Request.id == request_id)) or 0


def begin(session: Session, request_id: uuid.UUID, before: int) -> int | None:
    """Note, before the work, that a worker begins it; returns how often it was begun, or None
    when it should not be. `before` is what `attempts` said: called again with it because the
    answer was lost, it counts once.

    A request that was begun ATTEMPTS times and not answered has ended its workers: it is
    refused, so that it cannot end every worker in turn. Only one worker may call this for a
    request at a time, and only when no other is at it.
    """
    request = waiting(session, request_id)
    if request is None:
        return None
    if before >= ATTEMPTS:
        told = f"{request.attempts} workers began this and ended before they could answer"
        refuse(session, request, FactoryError(f"{told}. The workers' log may say why."))
        return None
    request.attempts = before + 1
    return request.attempts


def put_off(session: Session, request_id: uuid.UUID, attempt: int) -> None:
    """The worker lives, but the database was away when it had an answer: this attempt does not
    count, unless another worker has begun it meanwhile."""
    request = waiting(session, request_id)
    if request is not None and request.attempts == attempt:
        request.attempts -= 1


def waiting(session: Session, request_id: uuid.UUID) -> Request | None:
    """The request, if it still waits for an answer."""
    statement = select(Request).where(Request.id == request_id, Request.done_at.is_(None))
    return session.scalar(statement)


def note(session: Session, request_id: uuid.UUID, partial: dict[str, Any]) -> None:
    """Store what is known so far, for those who watch; the answer takes its place."""
    statement = update(Request).where(Request.id == request_id, Request.done_at.is_(None))
    session.execute(statement.values(result=partial))


def answer(session: Session, request: Request, result: dict[str, Any]) -> None:
    """Store the result."""
    request.result = result
    _close(session, request)


def refuse(session: Session, request: Request, error: FactoryError) -> None:
    """Store why there is no result."""
    request.result = None
    request.error = {"status": error.status, "title": error.title, "detail": error.detail}
    _close(session, request)


def prune(session: Session, days: float) -> int:
    """Delete requests that were answered more than `days` ago; returns how many."""
    before = func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, days * 86_400)
    old = delete(Request).where(Request.done_at < before).returning(Request.id)
    return len(session.execute(old).all())


def _close(session: Session, request: Request) -> None:
    request.done_at = session.scalar(select(func.clock_timestamp()))
    outbox.settle(session, outbox.SERVE, request.id)
