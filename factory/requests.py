"""Interactive work for a GPU worker: replay, explanation and preview. Served before any shard."""

import uuid
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from factory import outbox
from factory.errors import FactoryError, NotFound
from factory.tables import Request

KINDS = ("replay", "explanation", "preview")


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


def take(session: Session, request_id: uuid.UUID) -> Request | None:
    """Lock a waiting request for the rest of the transaction; None when another has it."""
    statement = select(Request).where(Request.id == request_id, Request.done_at.is_(None))
    return session.scalar(statement.with_for_update(skip_locked=True))


def answer(session: Session, request: Request, result: dict[str, Any]) -> None:
    """Store the result."""
    request.result = result
    _close(session, request)


def refuse(session: Session, request: Request, error: FactoryError) -> None:
    """Store why there is no result."""
    request.error = {"status": error.status, "title": error.title, "detail": error.detail}
    _close(session, request)


def _close(session: Session, request: Request) -> None:
    request.done_at = session.scalar(select(func.clock_timestamp()))
    outbox.settle(session, outbox.SERVE, request.id)
