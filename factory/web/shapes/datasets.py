"""Datasets, and what becomes of their samples."""

import uuid
from typing import Any, Literal

from pydantic import Field

from factory.feedback import Feedback
from factory.metrics import MetricName
from factory.web.shapes.base import Shape, Time
from factory.web.shapes.samples import Sample


class Counts(Shape):
    """How many samples, by origin and by state."""

    origin: dict[str, int]
    state: dict[str, int]


class Dataset(Shape):
    """A dataset and its counts."""

    id: uuid.UUID
    name: str
    prompt: str
    description: str
    labels: list[str]
    label_studio_project: int | None
    feedback: Feedback = Field(description="The levers of its later jobs")
    defaults: dict[str, Any] = Field(description="What its generate jobs take where left out")
    counts: Counts
    created_at: Time


class DatasetPage(Shape):
    """A page of datasets."""

    items: list[Dataset]
    next_cursor: str | None


class LineError(Shape):
    """A line that was not imported, and why."""

    line: int
    error: str


class Imported(Shape):
    """What an import did."""

    imported: int
    duplicates: int
    rejected: list[LineError]


class Rejected(Sample):
    """A rejected sample, and how many samples were steered away from it."""

    used: int
    mark: Literal["pinned", "retired"] | None


class Negatives(Shape):
    """What a job can steer away from now: the size of each pool, and the rejected samples."""

    pools: dict[str, int]
    items: list[Rejected]
    next_cursor: str | None


class Sync(Shape):
    """A reconciliation with Label Studio that is owed to a worker."""

    dataset: str
    state: Literal["owed"] = "owed"


class ReviewStats(Shape):
    """How far the review is, and what it said."""

    waiting: int
    pushed: int
    reviewed: int
    verdicts: dict[str, int]
    reasons: dict[str, int]


class Outcome(Shape):
    """What became of generated samples."""

    made: int
    decided: int
    rejected: int
    reject_rate: float | None


class Measure(Shape):
    """A measure on `n` samples with its 95 % interval; no value: `note` says why."""

    name: MetricName
    value: float | None
    low: float | None
    high: float | None
    n: int
    note: str | None


class Evaluation(Shape):
    """What an evaluate job found. `reference`: the same measures of real samples, to compare
    with: as many as were measured where a set is seen alone, one half beside the other, and each
    beside all others for copies."""

    job: uuid.UUID
    of: uuid.UUID | None = Field(description="Only samples of this generate job were measured")
    samples: int
    real: int
    measures: list[Measure]
    reference: list[Measure]
    ended_at: Time


class FittedLever(Shape):
    """A lever when it was last fitted. Without a digest it does not act; `note` says why."""

    name: str
    digest: str | None
    fitted_at: Time
    verdicts: int
    rejected: int
    result: dict[str, Any] = Field(description="How well it foretells verdicts, or what it found")
    note: str | None


class FeedbackState(Shape):
    """What reviews do now. `scale` below 1: every weight is lowered so far, and `backed_off`
    says why."""

    setting: Feedback
    fitted: list[FittedLever]
    scale: float
    backed_off: str | None


class Metrics(Shape):
    """A dataset in numbers. `audit`: made without feedback; `guided`: all others.
    `evaluation`: the newest one that is done."""

    dataset: str
    counts: Counts
    reviews: ReviewStats
    guided: Outcome
    audit: Outcome
    feedback: FeedbackState
    evaluation: Evaluation | None
