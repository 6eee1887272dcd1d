"""Keyset pages: `{"items": […], "next_cursor": …}`, newest first.

A page goes on after the last id that was seen, so nothing is shown twice or left out when rows
are added meanwhile. The cursor is opaque to callers.
"""

import base64
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from factory.errors import FieldError, Invalid

MAX_LIMIT = 200


class _Row(Protocol):
    @property
    def id(self) -> Any: ...


RowT = TypeVar("RowT", bound=_Row)


class PageQuery(BaseModel):
    """Which part of a list."""

    model_config = ConfigDict(extra="forbid")

    cursor: str | None = Field(None, max_length=64, description="`next_cursor` of the page before")
    limit: int = Field(50, ge=1, le=MAX_LIMIT)

    @property
    def before(self) -> uuid.UUID | None:
        """The id that the page starts after. Raises Invalid."""
        return None if self.cursor is None else decode(self.cursor)


def page(
    rows: Callable[[int], Sequence[RowT]], limit: int, show: Callable[[RowT], Any]
) -> dict[str, Any]:
    """One page. `rows(n)` gives the next n rows; one more than shown tells whether more follow."""
    shown, following = cut(rows(limit + 1), limit)
    return {"items": [show(row) for row in shown], "next_cursor": following}


def cut(found: Sequence[RowT], limit: int) -> tuple[Sequence[RowT], str | None]:
    """At most `limit` of the rows, and the cursor after them when there are more."""
    shown = found[:limit]
    return shown, encode(shown[-1].id) if len(found) > limit else None


def encode(row_id: uuid.UUID) -> str:
    """The cursor after a row."""
    return base64.urlsafe_b64encode(row_id.bytes).decode().rstrip("=")


def decode(cursor: str) -> uuid.UUID:
    """The row of a cursor. Raises Invalid."""
    try:
        row_id = uuid.UUID(bytes=base64.b64decode(cursor + "==", altchars="-_", validate=True))
    except ValueError:
        row_id = None
    if row_id is None or encode(row_id) != cursor:
        reason = FieldError("cursor", "is not a cursor that a list has given")
        raise Invalid("The cursor cannot be used.", [reason])
    return row_id
