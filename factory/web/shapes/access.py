"""Who may call, and whether this process can answer."""

import uuid
from typing import Literal

from pydantic import Field

from factory.web.shapes.base import Shape, Time


class Token(Shape):
    """An API token without its value."""

    id: uuid.UUID
    name: str
    created_at: Time
    last_used_at: Time | None
    revoked_at: Time | None


class NewToken(Token):
    """A new token; its value is shown this once."""

    token: str


class TokenPage(Shape):
    """A page of tokens."""

    items: list[Token]
    next_cursor: str | None


class Ready(Shape):
    """What this process needs, and what it can do without. `degraded` says what does not work."""

    status: Literal["ready"] = "ready"
    checks: dict[str, str]
    degraded: list[str] = Field(
        description="Parts that do not work, since when, and what to do; samples are made without"
    )


class Live(Shape):
    """The process answers."""

    status: Literal["live"] = "live"
    version: str
