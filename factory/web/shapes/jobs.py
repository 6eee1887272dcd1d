"""Jobs, their shards, and the model pairs that they use."""

import uuid
from typing import Any, Literal

from pydantic import Field

from factory.spec import JobKind
from factory.web.shapes.base import Shape, Time

JobState = Literal["pending", "running", "paused", "succeeded", "partial", "failed", "cancelled"]


class ModelPair(Shape):
    """A base and its expert. Digests are known once a worker has loaded them."""

    id: uuid.UUID
    name: str
    base: str
    expert: str
    revision: str | None
    base_sha256: str | None
    expert_sha256: str | None
    tokenizer_sha256: str | None
    created_at: Time


class ModelPage(Shape):
    """A page of model pairs."""

    items: list[ModelPair]
    next_cursor: str | None


class JobProgress(Shape):
    """How far a job is, counted from stored rows."""

    planned: int
    done: int
    failed: int
    filtered: int
    tokens: int
    tokens_per_second: float | None
    eta_seconds: float | None
    updated_at: Time | None


class Job(Shape):
    """A job: its whole spec, every default filled in, and how far it is. `parent`: the sweep that
    it tries settings for, `position` which."""

    id: uuid.UUID
    kind: JobKind
    dataset: str
    model: str | None = Field(description="An evaluate job has none")
    state: JobState
    parent: uuid.UUID | None
    position: int | None
    spec: dict[str, Any]
    progress: JobProgress
    result: dict[str, Any] | None
    error: str | None
    created_at: Time
    started_at: Time | None
    ended_at: Time | None


class JobPage(Shape):
    """A page of jobs."""

    items: list[Job]
    next_cursor: str | None


class Shard(Shape):
    """A slice of a job: ordinals from `start` up to `stop`."""

    id: uuid.UUID
    index: int
    start: int
    stop: int
    state: Literal["pending", "leased", "done", "dead"]
    fence: int
    crashes: int
    worker: str | None
    lease_until: Time | None
    error: str | None


class ShardPage(Shape):
    """A job's shards in order, as one page."""

    items: list[Shard]
    next_cursor: None = None


class Pushed(Shape):
    """How many samples were newly put on their way to review."""

    owed: int
