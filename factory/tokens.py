"""API tokens: shown once, kept as their SHA-256."""

import hashlib
import secrets
import uuid
from collections.abc import Sequence

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from factory.errors import NotFound, Unauthorized
from factory.ids import new_id
from factory.tables import ApiToken

PREFIX = "sf_"


def create(session: Session, name: str, value: str | None = None) -> tuple[ApiToken, str]:
    """A new token and its value, which cannot be read again."""
    value = value or PREFIX + secrets.token_urlsafe(32)
    token = ApiToken(name=name, token_sha256=_digest(value))
    session.add(token)
    session.flush()
    session.refresh(token)
    return token, value


def verify(session: Session, value: str) -> ApiToken:
    """The live token with this value. Raises Unauthorized."""
    statement = select(ApiToken).where(
        ApiToken.token_sha256 == _digest(value), ApiToken.revoked_at.is_(None)
    )
    token = session.scalar(statement)
    if token is None:
        raise Unauthorized("The token is unknown or revoked. Make one with `factory token create`.")
    return token


def live(session: Session, token_id: uuid.UUID) -> ApiToken:
    """The token of this id, if it is live. Raises Unauthorized."""
    token = session.get(ApiToken, token_id)
    if token is None or token.revoked_at is not None:
        raise Unauthorized("The session's token was revoked. Log in with another.")
    return token


def ensure(session: Session, name: str, value: str) -> None:
    """Make sure that a token of this value is there; one that was revoked stays so."""
    row = {"id": new_id(), "name": name, "token_sha256": _digest(value)}
    session.execute(insert(ApiToken).values(row).on_conflict_do_nothing())


def touch(session: Session, token_id: uuid.UUID) -> None:
    """Note that a token was used, at most once a minute."""
    minute_ago = func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 1)
    stale = (ApiToken.last_used_at.is_(None)) | (ApiToken.last_used_at < minute_ago)
    session.execute(
        update(ApiToken)
        .where(ApiToken.id == token_id, stale)
        .values(last_used_at=func.clock_timestamp())
    )


def list_all(
    session: Session, *, before: uuid.UUID | None = None, limit: int | None = None
) -> Sequence[ApiToken]:
    """Tokens, newest first, revoked ones too: all, or `limit` of them older than `before`."""
    statement = select(ApiToken).order_by(ApiToken.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(ApiToken.id < before)
    return session.scalars(statement).all()


def revoke(session: Session, token_id: uuid.UUID) -> ApiToken:
    """End a token. Raises NotFound."""
    token = session.get(ApiToken, token_id)
    if token is None:
        raise NotFound(f"There is no token {token_id}.")
    if token.revoked_at is None:
        token.revoked_at = session.scalar(select(func.clock_timestamp()))
    return token


def _digest(value: str) -> bytes:
    return hashlib.sha256(value.encode()).digest()
