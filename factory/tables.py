"""The tables. Data flows one way: job → shard → sample → review → negatives.

Rows of `samples` are never deleted and their text never changes, so replay always holds.
Every time is `timestamptz`, set by the database clock.
"""

import uuid
from datetime import date, datetime
from typing import Any

from pgvector.sqlalchemy import Vector
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TSVECTOR
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from factory.ids import new_id

EMBEDDING_DIMENSIONS = 384


class Base(DeclarativeBase):
    """Naming rules and types that all tables share."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[str]: ARRAY(Text),
        list[int]: ARRAY(Integer),
    }


def _id() -> Mapped[uuid.UUID]:
    return mapped_column(primary_key=True, default=new_id)


def _now() -> Mapped[datetime]:
    return mapped_column(server_default=func.clock_timestamp())


class Dataset(Base):
    """What is being made: its prompt, its defaults, its review project."""

    __tablename__ = "datasets"

    id: Mapped[uuid.UUID] = _id()
    name: Mapped[str] = mapped_column(unique=True)
    prompt: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    labels: Mapped[list[str]] = mapped_column(server_default="{}")
    label_studio_project: Mapped[int | None]  # created by the first push
    feedback: Mapped[dict[str, Any]] = mapped_column(server_default="{}")  # its levers
    reviews_until: Mapped[datetime | None]  # changes up to then are known (Label Studio's clock)
    reviews_compared_at: Mapped[datetime | None]  # when every task was last looked at
    defaults: Mapped[dict[str, Any]] = mapped_column(server_default="{}")  # of its generate jobs
    created_at: Mapped[datetime] = _now()


class ModelPair(Base):
    """A base and its expert. Digests are set when a worker first loads them."""

    __tablename__ = "model_pairs"

    id: Mapped[uuid.UUID] = _id()
    name: Mapped[str] = mapped_column(unique=True)
    base: Mapped[str]  # folder, or hub id
    expert: Mapped[str]  # folder (full weights or LoRA adapter), or hub id
    revision: Mapped[str | None]  # commit of a hub id
    base_sha256: Mapped[str | None]
    expert_sha256: Mapped[str | None]
    tokenizer_sha256: Mapped[str | None]
    created_at: Mapped[datetime] = _now()


class Job(Base):
    """What someone submitted. `spec` is the whole of it, every default filled in."""

    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint(
            "state IN ('pending','running','paused','succeeded','partial','failed','cancelled')",
            name="state",
        ),
        Index(None, "dataset_id", "id"),
        Index("ix_jobs_live", "id", postgresql_where=text("ended_at IS NULL")),
        Index("ix_jobs_parent", "parent_id", postgresql_where=text("parent_id IS NOT NULL")),
    )

    id: Mapped[uuid.UUID] = _id()
    kind: Mapped[str]
    dataset_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("datasets.id"))
    model_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("model_pairs.id"))
    state: Mapped[str] = mapped_column(server_default="pending")
    spec: Mapped[dict[str, Any]]
    # planned: samples (generate), steps (train), measures (evaluate), texts at most (probe),
    # rounds (sweep)
    count: Mapped[int]
    parent_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("jobs.id"))  # its sweep
    position: Mapped[int | None]  # of the settings it tries, in its sweep
    result: Mapped[dict[str, Any] | None]  # what was trained or measured, how far η could steer
    error: Mapped[str | None]
    idempotency_key: Mapped[str | None] = mapped_column(unique=True)
    request_sha256: Mapped[str]
    created_at: Mapped[datetime] = _now()
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class Shard(Base):
    """A slice of a job: ordinals [start, stop). The unit that one worker leases."""

    __tablename__ = "shards"
    __table_args__ = (
        CheckConstraint("state IN ('pending','leased','done','dead')", name="state"),
        CheckConstraint("start < stop", name="range"),
        UniqueConstraint("job_id", "index"),
        Index("ix_shards_lease", "lease_until", postgresql_where=text("state = 'leased'")),
    )

    id: Mapped[uuid.UUID] = _id()
    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("jobs.id"))
    index: Mapped[int]
    start: Mapped[int]
    stop: Mapped[int]
    state: Mapped[str] = mapped_column(server_default="pending")
    fence: Mapped[int] = mapped_column(server_default="0")  # grows with every claim
    crashes: Mapped[int] = mapped_column(server_default="0")  # leases that ended without a word
    lease_until: Mapped[datetime | None]
    worker: Mapped[str | None]
    progress: Mapped[dict[str, Any]] = mapped_column(server_default="{}")  # steps or measures done
    error: Mapped[str | None]


class Attempt(Base):
    """One lease of one shard by one worker, and what that worker ran on."""

    __tablename__ = "attempts"
    __table_args__ = (UniqueConstraint("shard_id", "fence"),)

    id: Mapped[uuid.UUID] = _id()
    shard_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("shards.id"))
    fence: Mapped[int]
    worker: Mapped[str]
    environment: Mapped[dict[str, Any]]  # device, dtype, slots, model digests, software
    started_at: Mapped[datetime] = _now()
    ended_at: Mapped[datetime | None]
    error: Mapped[str | None]


class Sample(Base):
    """One text: real, synthetic or corrected."""

    __tablename__ = "samples"
    __table_args__ = (
        CheckConstraint("origin IN ('real','synthetic','corrected')", name="origin"),
        CheckConstraint(
            "state IN ('generated','filtered','in_review','accepted','rejected','fixed')",
            name="state",
        ),
        CheckConstraint(
            "(origin = 'synthetic') = (job_id IS NOT NULL) AND "
            "(origin = 'synthetic') = (ordinal IS NOT NULL) AND "
            "(origin = 'corrected') = (corrects IS NOT NULL)",
            name="made_by",
        ),
        UniqueConstraint("job_id", "ordinal"),
        Index(
            "uq_samples_real_text",
            "dataset_id",
            "text_sha256",
            unique=True,
            postgresql_where=text("origin = 'real'"),
        ),
        Index(None, "dataset_id", "id"),
        Index(None, "dataset_id", "origin", "state", "id"),
        Index("ix_samples_search", "search", postgresql_using="gin"),
        Index("ix_samples_unembedded", "id", postgresql_where=text("embedding IS NULL")),
        Index(
            "ix_samples_filtered",
            "dataset_id",
            "filter_reason",
            postgresql_where=text("filter_reason IS NOT NULL"),
        ),
        Index(
            "ix_samples_embedding",
            "embedding",
            postgresql_using="hnsw",
            postgresql_ops={"embedding": "vector_cosine_ops"},
        ),
        Index(
            "ix_samples_real_embedding",
            "embedding",
            postgresql_using="hnsw",
            postgresql_ops={"embedding": "vector_cosine_ops"},
            postgresql_where=text("origin = 'real'"),
        ),
    )

    id: Mapped[uuid.UUID] = _id()
    dataset_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("datasets.id"))
    origin: Mapped[str]
    state: Mapped[str]
    text: Mapped[str]
    text_sha256: Mapped[bytes]
    label: Mapped[str | None]
    meta: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    embedding: Mapped[list[float] | None] = mapped_column(
        Vector(EMBEDDING_DIMENSIONS), deferred=True
    )
    search: Mapped[str] = mapped_column(
        TSVECTOR, Computed("to_tsvector('simple', text)", persisted=True), deferred=True
    )
    created_at: Mapped[datetime] = _now()
    # corrected samples: the one that was rewritten
    corrects: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("samples.id"), index=True)
    # synthetic samples: how they were made
    job_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("jobs.id"))
    shard_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("shards.id"))
    attempt_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("attempts.id"))
    ordinal: Mapped[int | None]
    seed: Mapped[int | None] = mapped_column(BigInteger)
    audit: Mapped[bool] = mapped_column(server_default="false")  # made without feedback
    token_ids: Mapped[list[int] | None] = mapped_column(deferred=True)
    token_count: Mapped[int] = mapped_column(server_default="0")
    finish_reason: Mapped[str | None]
    filter_reason: Mapped[str | None]
    trace: Mapped[bytes | None] = mapped_column(deferred=True)


class SampleNegative(Base):
    """Which samples a sample was steered away from, in order (role `negative`), and their
    centre (role `center`)."""

    __tablename__ = "sample_negatives"
    __table_args__ = (
        CheckConstraint("role IN ('negative','center')", name="role"),
        Index(None, "negative_id"),
    )

    sample_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("samples.id"), primary_key=True)
    role: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    negative_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("samples.id"))


class Mark(Base):
    """What someone decided about a sample as a negative: `pinned`, always steered away from, or
    `retired`, never again. How earlier samples were made stays as it is."""

    __tablename__ = "marks"
    __table_args__ = (
        CheckConstraint("kind IN ('pinned','retired')", name="kind"),
        Index(None, "dataset_id", "kind"),
    )

    sample_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("samples.id"), primary_key=True)
    dataset_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("datasets.id"))
    kind: Mapped[str]
    created_at: Mapped[datetime] = _now()


class NearCopy(Base):
    """A generated sample that repeats another: `why` in words, as a gate says it, and which one,
    unless a gate filtered it out and no real sample is as near."""

    __tablename__ = "near_copies"
    __table_args__ = (Index(None, "dataset_id", "sample_id"),)

    sample_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("samples.id"), primary_key=True)
    dataset_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("datasets.id"))
    of: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("samples.id"))
    why: Mapped[str]


class Map(Base):
    """Where the newest samples of a dataset lie in two dimensions: [sample id, x, y] each, x and
    y about between −1 and 1. Drawn anew when someone asks."""

    __tablename__ = "maps"

    dataset_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("datasets.id"), primary_key=True)
    points: Mapped[list[Any]] = mapped_column(JSONB)
    made_at: Mapped[datetime] = _now()


class Failure(Base):
    """An ordinal that could not be made, and why. It has no sample."""

    __tablename__ = "failures"

    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True)
    shard_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("shards.id"))
    error: Mapped[str]
    created_at: Mapped[datetime] = _now()


class Push(Base):
    """A sample's way to Label Studio: one row and one task for each sample."""

    __tablename__ = "pushes"
    __table_args__ = (
        Index("ix_pushes_waiting", "dataset_id", postgresql_where=text("task_id IS NULL")),
        Index(None, "dataset_id", "task_id"),
    )

    sample_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("samples.id"), primary_key=True)
    dataset_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("datasets.id"))
    project_id: Mapped[int | None]
    task_id: Mapped[int | None]
    tried: Mapped[bool] = mapped_column(server_default="false")  # look up before sending again
    task_updated_at: Mapped[datetime | None]  # of the task as last fetched: an older one is stale
    error: Mapped[str | None]
    created_at: Mapped[datetime] = _now()
    pushed_at: Mapped[datetime | None]


class Review(Base):
    """One person's verdict on one sample, from one Label Studio annotation."""

    __tablename__ = "reviews"
    __table_args__ = (
        CheckConstraint("verdict IN ('accept','reject','fix')", name="verdict"),
        Index(None, "sample_id", "updated_at"),
        Index("ix_reviews_reasons", "reasons", postgresql_using="gin"),
    )

    id: Mapped[uuid.UUID] = _id()
    sample_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("samples.id"))
    annotation_id: Mapped[int | None] = mapped_column(unique=True)  # None: its project is gone
    verdict: Mapped[str]
    reasons: Mapped[list[str]] = mapped_column(server_default="{}")
    rewrite: Mapped[str | None]
    rating: Mapped[int | None]
    reviewer: Mapped[str]
    lead_seconds: Mapped[float | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]


class FittedLever(Base):
    """What was fitted on a dataset's verdicts, or why it could not be; rows are only added.

    `digest` names what acts, which never changes: a file in FACTORY_HOME/models/levers, or for
    words what `result` holds. Without one, `note` says why the lever does not act.
    """

    __tablename__ = "fitted_levers"
    __table_args__ = (Index(None, "dataset_id", "name", "id"),)

    id: Mapped[uuid.UUID] = _id()
    dataset_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("datasets.id"))
    name: Mapped[str]
    made_from: Mapped[str] = mapped_column(unique=True)  # SHA-256 of the evidence and settings
    settings: Mapped[dict[str, Any]]
    settings_sha256: Mapped[str]
    digest: Mapped[str | None]
    verdicts: Mapped[int]
    rejected: Mapped[int]
    evidence_until: Mapped[datetime | None]  # the newest verdict that was seen
    result: Mapped[dict[str, Any]] = mapped_column(server_default="{}")  # how well it does
    note: Mapped[str | None]
    fitted_at: Mapped[datetime] = _now()


class Tally(Base):
    """A change of how many rows there are, written by triggers: see `factory.tallies`."""

    __tablename__ = "tallies"
    __table_args__ = (Index(None, "subject", "dataset_id"),)

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    dataset_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("datasets.id"))
    subject: Mapped[str]  # sample, push or review
    facts: Mapped[dict[str, Any]]
    number: Mapped[int] = mapped_column(BigInteger)


class WebhookEvent(Base):
    """What Label Studio told us, stored before we answer. A hint: the annotation is re-fetched."""

    __tablename__ = "webhook_events"
    __table_args__ = (
        Index("ix_webhook_events_waiting", "id", postgresql_where=text("handled_at IS NULL")),
    )

    id: Mapped[uuid.UUID] = _id()
    digest: Mapped[str] = mapped_column(unique=True)  # of (annotation, updated_at, action)
    action: Mapped[str]
    project_id: Mapped[int | None]
    annotation_ids: Mapped[list[int]]
    payload: Mapped[dict[str, Any]]
    received_at: Mapped[datetime] = _now()
    handled_at: Mapped[datetime | None]


class Outbox(Base):
    """A wake-up that is owed: task `task` for `key`. Deleted by the worker that did the work."""

    __tablename__ = "outbox"
    __table_args__ = (Index(None, "due_at"),)

    task: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    created_at: Mapped[datetime] = _now()
    due_at: Mapped[datetime] = _now()
    sends: Mapped[int] = mapped_column(server_default="0")
    version: Mapped[int] = mapped_column(server_default="0")  # grows when it is owed anew


class Circuit(Base):
    """The way to a service that fails now: calls wait until `retry_at`. None while all is well."""

    __tablename__ = "circuits"

    name: Mapped[str] = mapped_column(primary_key=True)
    failures: Mapped[int] = mapped_column(server_default="0")  # one after another
    since: Mapped[datetime | None]  # the first of them
    retry_at: Mapped[datetime | None]
    asked_until: Mapped[datetime | None]  # what the service itself asked for (Retry-After)
    error: Mapped[str | None]  # the last of them


class Request(Base):
    """Interactive work for a GPU worker: replay, explanation or preview."""

    __tablename__ = "requests"
    __table_args__ = (
        CheckConstraint("kind IN ('replay','explanation','preview')", name="kind"),
        Index("ix_requests_waiting", "id", postgresql_where=text("done_at IS NULL")),
    )

    id: Mapped[uuid.UUID] = _id()
    kind: Mapped[str]
    payload: Mapped[dict[str, Any]]
    attempts: Mapped[int] = mapped_column(server_default="0")  # how often a worker began it
    result: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]  # {status, title, detail}
    created_at: Mapped[datetime] = _now()
    done_at: Mapped[datetime | None]


class ApiToken(Base):
    """A bearer token, kept as its SHA-256."""

    __tablename__ = "api_tokens"

    id: Mapped[uuid.UUID] = _id()
    name: Mapped[str]
    token_sha256: Mapped[bytes] = mapped_column(unique=True)
    created_at: Mapped[datetime] = _now()
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]


class Budget(Base):
    """How much may be asked for in a day: of a dataset, by a token, or, with neither, in all."""

    __tablename__ = "budgets"
    __table_args__ = (
        CheckConstraint("unit IN ('samples','tokens')", name="unit"),
        CheckConstraint("amount >= 0", name="amount"),
        CheckConstraint("dataset_id IS NULL OR token_id IS NULL", name="whose"),
        UniqueConstraint(
            "dataset_id",
            "token_id",
            "unit",
            name="uq_budgets_dataset_id_token_id_unit",
            postgresql_nulls_not_distinct=True,
        ),
    )

    id: Mapped[uuid.UUID] = _id()
    dataset_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("datasets.id"))
    token_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("api_tokens.id"))
    unit: Mapped[str]
    amount: Mapped[int] = mapped_column(BigInteger)


class Spend(Base):
    """What a job took of the budgets of the day on which it was submitted: while it lives what it
    may make at most, afterwards what it made."""

    __tablename__ = "spends"
    __table_args__ = (Index(None, "day", "dataset_id"),)

    job_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("jobs.id"), primary_key=True)
    dataset_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("datasets.id"))
    token_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("api_tokens.id"))
    day: Mapped[date]
    samples: Mapped[int] = mapped_column(BigInteger)
    tokens: Mapped[int] = mapped_column(BigInteger)
