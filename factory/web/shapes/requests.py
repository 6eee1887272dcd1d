"""What a GPU worker answers while someone waits."""

import uuid
from typing import Any, Literal

from pydantic import ConfigDict, Field

from factory.web.shapes.base import Shape, Time


class Request(Shape):
    """Work for a GPU worker that someone waits for."""

    id: uuid.UUID
    kind: Literal["replay", "explanation", "preview"]
    state: Literal["pending", "done", "failed"]
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    created_at: Time
    done_at: Time | None


class Difference(Shape):
    """Where two token sequences part. Scores are those of guidance, before temperature and
    noise, in nats; null for a token that is not there, or not plausible any more."""

    position: int
    expected: str | None
    made: str | None
    expected_score: float | None = None
    made_score: float | None = None


class Replay(Shape):
    """A sample made again and compared with what is stored."""

    identical: bool
    text: str
    expected: str
    first_difference: Difference | None


class Likely(Shape):
    """A token that could have come, and its natural log-probability among the plausible ones."""

    token: str
    log_probability: float


class Drawn(Shape):
    """The log-probability of the token that came, with guidance and without; null: it was not
    plausible."""

    guided: float | None
    unguided: float | None


class Likeliest(Shape):
    """The five likeliest tokens of a place, before temperature and the filters of drawing."""

    guided: list[Likely]
    unguided: list[Likely]
    drawn: Drawn


class ExplainedToken(Shape):
    """What moved one token. Log-probabilities in nats; streams that were not run are null."""

    model_config = ConfigDict(extra="allow")

    token: str
    expert: float | None
    base: float | None
    negative: float | None
    center: float | None
    verdict_head: float | None = Field(description="What the verdict head added to the score")
    adapters: float | None = Field(None, description="What adapters added to the score")
    score: float
    unguided: str
    survivors: int
    likeliest: Likeliest | None = None


class Explanation(Shape):
    """What moved each token of a sample."""

    sample: uuid.UUID
    tokens: list[ExplainedToken]


class Previewed(Shape):
    """A text that is not stored."""

    model_config = ConfigDict(extra="allow")

    seed: int
    text: str


class Preview(Shape):
    """The same seeds with and without guidance."""

    guided: list[Previewed]
    unguided: list[Previewed]
