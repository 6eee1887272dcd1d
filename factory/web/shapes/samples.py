"""Samples, how each was made, and what moved it."""

import uuid
from typing import Any, Literal

from pydantic import ConfigDict

from factory.spec import SampleState
from factory.web.shapes.base import Origin, Shape, Time


class Sample(Shape):
    """One text."""

    id: uuid.UUID
    dataset: str
    origin: Origin
    state: SampleState
    text: str
    label: str | None
    meta: dict[str, Any]
    job: uuid.UUID | None
    shard: uuid.UUID | None
    ordinal: int | None
    seed: int | None
    audit: bool
    corrects: uuid.UUID | None
    tokens: int
    finish_reason: str | None
    filter_reason: str | None
    created_at: Time


class SamplePage(Shape):
    """A page of samples."""

    items: list[Sample]
    next_cursor: str | None


class Review(Shape):
    """One person's verdict on one sample; `deleted_at`: withdrawn then; no `annotation`: it was
    made in a Label Studio project that is gone."""

    id: uuid.UUID
    sample: uuid.UUID
    annotation: int | None
    verdict: Literal["accept", "reject", "fix"]
    reasons: list[str]
    rewrite: str | None
    rating: int | None
    reviewer: str
    lead_seconds: float | None
    created_at: Time
    updated_at: Time
    deleted_at: Time | None


class ReviewPage(Shape):
    """A page of reviews."""

    items: list[Review]
    next_cursor: str | None


class NearCopy(Shape):
    """Why a sample counts as a near-copy, and of which one, where that is known."""

    of: uuid.UUID | None
    why: str


class SampleDetail(Sample):
    """A sample with its reviews, its task in Label Studio, and whether it repeats another."""

    reviews: list[Review]
    task: int | None
    near_copy: NearCopy | None


class Neighbour(Sample):
    """A sample and its cosine similarity to another."""

    similarity: float


class Neighbours(Shape):
    """The nearest samples, nearest first."""

    items: list[Neighbour]
    next_cursor: None = None


class Mark(Shape):
    """What someone decided about a sample as a negative; null: nothing."""

    sample: uuid.UUID
    kind: Literal["pinned", "retired"] | None


class Ref(Shape):
    """Where weights come from, and their SHA-256."""

    ref: str
    sha256: str | None


class Digest(Shape):
    """A SHA-256 in hex."""

    sha256: str | None


class ProvenanceModel(Shape):
    """The model pair a sample was made with."""

    name: str
    base: Ref
    expert: Ref
    tokenizer: Digest
    revision: str | None


class Document(Shape):
    """A sample that served as context."""

    id: uuid.UUID
    origin: Origin
    position: int


class LeverUse(Shape):
    """A lever that acted on a sample. One that could not act has weight 0 and says why."""

    model_config = ConfigDict(extra="allow")

    name: str
    digest: str | None
    weight: float


class Provenance(Shape):
    """Everything that is needed to make a sample again."""

    model_config = ConfigDict(extra="allow")

    sample: uuid.UUID
    job: uuid.UUID
    shard: uuid.UUID
    ordinal: int
    seed: int
    prompt: str
    guidance: dict[str, Any]
    sampling: dict[str, Any]
    model: ProvenanceModel
    negatives: list[Document]
    center: list[Document]
    levers: list[LeverUse]
    audit: bool
    worker: str
    finish_reason: str | None
    created_at: Time
