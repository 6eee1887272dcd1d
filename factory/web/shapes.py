"""What the API answers with."""

import uuid
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer

from factory.feedback import Feedback
from factory.metrics import MetricName
from factory.spec import JobKind, SampleState

Origin = Literal["real", "synthetic", "corrected"]
JobState = Literal["pending", "running", "paused", "succeeded", "partial", "failed", "cancelled"]


def rfc3339(time: datetime) -> str:
    """A time as RFC 3339 in UTC."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


Time = Annotated[datetime, PlainSerializer(rfc3339, return_type=str, when_used="json")]


class Shape(BaseModel):
    """Base of all shapes."""

    model_config = ConfigDict(from_attributes=True)


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


class SampleDetail(Sample):
    """A sample with its reviews, and its task in Label Studio."""

    reviews: list[Review]
    task: int | None


class Neighbour(Sample):
    """A sample and its cosine similarity to another."""

    similarity: float


class Neighbours(Shape):
    """The nearest samples, nearest first."""

    items: list[Neighbour]
    next_cursor: None = None


class Rejected(Sample):
    """A rejected sample, and how many samples were steered away from it."""

    used: int
    mark: Literal["pinned", "retired"] | None


class Negatives(Shape):
    """What a job can steer away from now: the size of each pool, and the rejected samples."""

    pools: dict[str, int]
    items: list[Rejected]
    next_cursor: str | None


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


class Sync(Shape):
    """A reconciliation with Label Studio that is owed to a worker."""

    dataset: str
    state: Literal["owed"] = "owed"


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


class Request(Shape):
    """Work for a GPU worker that someone waits for."""

    id: uuid.UUID
    kind: Literal["replay", "explanation", "preview"]
    state: Literal["pending", "done", "failed"]
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    created_at: Time
    done_at: Time | None


class Mark(Shape):
    """What someone decided about a sample as a negative; null: nothing."""

    sample: uuid.UUID
    kind: Literal["pinned", "retired"] | None


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


class ExplainedToken(Shape):
    """What moved one token. Log-probabilities in nats; streams that were not run are null."""

    model_config = ConfigDict(extra="allow")

    token: str
    expert: float | None
    base: float | None
    negative: float | None
    center: float | None
    verdict_head: float | None = Field(description="What the verdict head added to the score")
    score: float
    unguided: str
    survivors: int


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
