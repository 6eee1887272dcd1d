"""What every shape is made from."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, PlainSerializer

Origin = Literal["real", "synthetic", "corrected"]


def rfc3339(time: datetime) -> str:
    """A time as RFC 3339 in UTC."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


Time = Annotated[datetime, PlainSerializer(rfc3339, return_type=str, when_used="json")]


class Shape(BaseModel):
    """Base of all shapes."""

    model_config = ConfigDict(from_attributes=True)
