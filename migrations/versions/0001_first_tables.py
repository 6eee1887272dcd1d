"""first tables"""

import pgvector.sqlalchemy
import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Replay needs every sample as it was made, and negatives are samples: the database itself
# refuses to lose one.
KEEP_SAMPLES = """
CREATE FUNCTION keep_samples() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' OR (OLD.text, OLD.token_ids, OLD.seed)
     IS DISTINCT FROM (NEW.text, NEW.token_ids, NEW.seed) THEN
    RAISE EXCEPTION 'sample % is kept as it was made', OLD.id;
  END IF;
  RETURN NEW;
END $$
"""


def upgrade() -> None:
    op.execute("CREATE EXTENSION IF NOT EXISTS vector")
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("token_sha256", sa.LargeBinary(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_tokens")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_api_tokens_token_sha256")),
    )
    op.create_table(
        "datasets",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("prompt", sa.String(), nullable=False),
        sa.Column("description", sa.String(), server_default="", nullable=False),
        sa.Column("labels", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("label_studio_project", sa.Integer(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
        sa.UniqueConstraint("name", name=op.f("uq_datasets_name")),
    )
    op.create_table(
        "model_pairs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("base", sa.String(), nullable=False),
        sa.Column("expert", sa.String(), nullable=False),
        sa.Column("revision", sa.String(), nullable=True),
        sa.Column("base_sha256", sa.String(), nullable=True),
        sa.Column("expert_sha256", sa.String(), nullable=True),
        sa.Column("tokenizer_sha256", sa.String(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_pairs")),
        sa.UniqueConstraint("name", name=op.f("uq_model_pairs_name")),
    )
    op.create_table(
        "outbox",
        sa.Column("task", sa.String(), nullable=False),
        sa.Column("key", sa.Uuid(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "due_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("sends", sa.Integer(), server_default="0", nullable=False),
        sa.Column("version", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("task", "key", name=op.f("pk_outbox")),
    )
    op.create_index(op.f("ix_outbox_due_at"), "outbox", ["due_at"], unique=False)
    op.create_table(
        "requests",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("done_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "kind IN ('replay','explanation','preview')", name=op.f("ck_requests_kind")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_requests")),
    )
    op.create_index(
        "ix_requests_waiting",
        "requests",
        ["id"],
        unique=False,
        postgresql_where=sa.text("done_at IS NULL"),
    )
    op.create_table(
        "webhook_events",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=True),
        sa.Column("annotation_ids", postgresql.ARRAY(sa.Integer()), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "received_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("handled_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_events")),
        sa.UniqueConstraint("digest", name=op.f("uq_webhook_events_digest")),
    )
    op.create_index(
        "ix_webhook_events_waiting",
        "webhook_events",
        ["id"],
        unique=False,
        postgresql_where=sa.text("handled_at IS NULL"),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("dataset_id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=True),
        sa.Column("state", sa.String(), server_default="pending", nullable=False),
        sa.Column("spec", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("idempotency_key", sa.String(), nullable=True),
        sa.Column("request_sha256", sa.String(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "state IN ('pending','running','paused','succeeded','partial','failed','cancelled')",
            name=op.f("ck_jobs_state"),
        ),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_jobs_dataset_id")),
        sa.ForeignKeyConstraint(["model_id"], ["model_pairs.id"], name=op.f("fk_jobs_model_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_jobs_idempotency_key")),
    )
    op.create_index(op.f("ix_jobs_dataset_id_id"), "jobs", ["dataset_id", "id"], unique=False)
    op.create_index(
        "ix_jobs_live", "jobs", ["id"], unique=False, postgresql_where=sa.text("ended_at IS NULL")
    )
    op.create_table(
        "shards",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("start", sa.Integer(), nullable=False),
        sa.Column("stop", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), server_default="pending", nullable=False),
        sa.Column("fence", sa.Integer(), server_default="0", nullable=False),
        sa.Column("crashes", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("worker", sa.String(), nullable=True),
        sa.Column(
            "progress", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False
        ),
        sa.Column("error", sa.String(), nullable=True),
        sa.CheckConstraint(
            "state IN ('pending','leased','done','dead')", name=op.f("ck_shards_state")
        ),
        sa.CheckConstraint("start < stop", name=op.f("ck_shards_range")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_shards_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_shards")),
        sa.UniqueConstraint("job_id", "index", name=op.f("uq_shards_job_id_index")),
    )
    op.create_index(
        "ix_shards_lease",
        "shards",
        ["lease_until"],
        unique=False,
        postgresql_where=sa.text("state = 'leased'"),
    )
    op.create_table(
        "attempts",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("shard_id", sa.Uuid(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(), nullable=False),
        sa.Column("environment", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "started_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["shard_id"], ["shards.id"], name=op.f("fk_attempts_shard_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
        sa.UniqueConstraint("shard_id", "fence", name=op.f("uq_attempts_shard_id_fence")),
    )
    op.create_table(
        "failures",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("shard_id", sa.Uuid(), nullable=False),
        sa.Column("error", sa.String(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_failures_job_id")),
        sa.ForeignKeyConstraint(["shard_id"], ["shards.id"], name=op.f("fk_failures_shard_id")),
        sa.PrimaryKeyConstraint("job_id", "ordinal", name=op.f("pk_failures")),
    )
    op.create_table(
        "samples",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("dataset_id", sa.Uuid(), nullable=False),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("text", sa.String(), nullable=False),
        sa.Column("text_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("label", sa.String(), nullable=True),
        sa.Column(
            "meta", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False
        ),
        sa.Column("embedding", pgvector.sqlalchemy.vector.VECTOR(dim=384), nullable=True),
        sa.Column(
            "search",
            postgresql.TSVECTOR(),
            sa.Computed("to_tsvector('simple', text)", persisted=True),
            nullable=False,
        ),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("corrects", sa.Uuid(), nullable=True),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.Column("shard_id", sa.Uuid(), nullable=True),
        sa.Column("attempt_id", sa.Uuid(), nullable=True),
        sa.Column("ordinal", sa.Integer(), nullable=True),
        sa.Column("seed", sa.BigInteger(), nullable=True),
        sa.Column("audit", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("token_ids", postgresql.ARRAY(sa.Integer()), nullable=True),
        sa.Column("token_count", sa.Integer(), server_default="0", nullable=False),
        sa.Column("finish_reason", sa.String(), nullable=True),
        sa.Column("filter_reason", sa.String(), nullable=True),
        sa.Column("trace", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint(
            "(origin = 'synthetic') = (job_id IS NOT NULL) AND "
            "(origin = 'synthetic') = (ordinal IS NOT NULL) AND "
            "(origin = 'corrected') = (corrects IS NOT NULL)",
            name=op.f("ck_samples_made_by"),
        ),
        sa.CheckConstraint(
            "origin IN ('real','synthetic','corrected')", name=op.f("ck_samples_origin")
        ),
        sa.CheckConstraint(
            "state IN ('generated','filtered','in_review','accepted','rejected','fixed')",
            name=op.f("ck_samples_state"),
        ),
        sa.ForeignKeyConstraint(
            ["attempt_id"], ["attempts.id"], name=op.f("fk_samples_attempt_id")
        ),
        sa.ForeignKeyConstraint(["corrects"], ["samples.id"], name=op.f("fk_samples_corrects")),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_samples_dataset_id")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_samples_job_id")),
        sa.ForeignKeyConstraint(["shard_id"], ["shards.id"], name=op.f("fk_samples_shard_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_samples")),
        sa.UniqueConstraint("job_id", "ordinal", name=op.f("uq_samples_job_id_ordinal")),
    )
    op.create_index(op.f("ix_samples_corrects"), "samples", ["corrects"], unique=False)
    op.create_index(op.f("ix_samples_dataset_id_id"), "samples", ["dataset_id", "id"], unique=False)
    op.create_index(
        op.f("ix_samples_dataset_id_origin_state_id"),
        "samples",
        ["dataset_id", "origin", "state", "id"],
        unique=False,
    )
    op.create_index(
        "ix_samples_embedding",
        "samples",
        ["embedding"],
        unique=False,
        postgresql_using="hnsw",
        postgresql_ops={"embedding": "vector_cosine_ops"},
    )
    op.create_index(
        "ix_samples_search", "samples", ["search"], unique=False, postgresql_using="gin"
    )
    op.create_index(
        "ix_samples_unembedded",
        "samples",
        ["id"],
        unique=False,
        postgresql_where=sa.text("embedding IS NULL"),
    )
    op.create_index(
        "uq_samples_real_text",
        "samples",
        ["dataset_id", "text_sha256"],
        unique=True,
        postgresql_where=sa.text("origin = 'real'"),
    )
    op.create_table(
        "pushes",
        sa.Column("sample_id", sa.Uuid(), nullable=False),
        sa.Column("dataset_id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Integer(), nullable=True),
        sa.Column("task_id", sa.Integer(), nullable=True),
        sa.Column("tried", sa.Boolean(), server_default="false", nullable=False),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("pushed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name=op.f("fk_pushes_dataset_id")),
        sa.ForeignKeyConstraint(["sample_id"], ["samples.id"], name=op.f("fk_pushes_sample_id")),
        sa.PrimaryKeyConstraint("sample_id", name=op.f("pk_pushes")),
    )
    op.create_index(
        op.f("ix_pushes_dataset_id_task_id"), "pushes", ["dataset_id", "task_id"], unique=False
    )
    op.create_index(
        "ix_pushes_waiting",
        "pushes",
        ["dataset_id"],
        unique=False,
        postgresql_where=sa.text("task_id IS NULL"),
    )
    op.create_table(
        "reviews",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("sample_id", sa.Uuid(), nullable=False),
        sa.Column("annotation_id", sa.Integer(), nullable=False),
        sa.Column("verdict", sa.String(), nullable=False),
        sa.Column("reasons", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.Column("rewrite", sa.String(), nullable=True),
        sa.Column("rating", sa.Integer(), nullable=True),
        sa.Column("reviewer", sa.String(), nullable=False),
        sa.Column("lead_seconds", sa.Double(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("verdict IN ('accept','reject','fix')", name=op.f("ck_reviews_verdict")),
        sa.ForeignKeyConstraint(["sample_id"], ["samples.id"], name=op.f("fk_reviews_sample_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reviews")),
        sa.UniqueConstraint("annotation_id", name=op.f("uq_reviews_annotation_id")),
    )
    op.create_index(
        op.f("ix_reviews_sample_id_updated_at"),
        "reviews",
        ["sample_id", "updated_at"],
        unique=False,
    )
    op.create_table(
        "sample_negatives",
        sa.Column("sample_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("negative_id", sa.Uuid(), nullable=False),
        sa.CheckConstraint("role IN ('negative','center')", name=op.f("ck_sample_negatives_role")),
        sa.ForeignKeyConstraint(
            ["negative_id"], ["samples.id"], name=op.f("fk_sample_negatives_negative_id")
        ),
        sa.ForeignKeyConstraint(
            ["sample_id"], ["samples.id"], name=op.f("fk_sample_negatives_sample_id")
        ),
        sa.PrimaryKeyConstraint("sample_id", "role", "position", name=op.f("pk_sample_negatives")),
    )
    op.create_index(
        op.f("ix_sample_negatives_negative_id"), "sample_negatives", ["negative_id"], unique=False
    )
    op.execute(KEEP_SAMPLES)
    op.execute(
        "CREATE TRIGGER keep_samples BEFORE DELETE OR UPDATE OF text, token_ids, seed ON samples "
        "FOR EACH ROW EXECUTE FUNCTION keep_samples()"
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_sample_negatives_negative_id"), table_name="sample_negatives")
    op.drop_table("sample_negatives")
    op.drop_index(op.f("ix_reviews_sample_id_updated_at"), table_name="reviews")
    op.drop_table("reviews")
    op.drop_index(
        "ix_pushes_waiting", table_name="pushes", postgresql_where=sa.text("task_id IS NULL")
    )
    op.drop_index(op.f("ix_pushes_dataset_id_task_id"), table_name="pushes")
    op.drop_table("pushes")
    op.drop_index(
        "uq_samples_real_text", table_name="samples", postgresql_where=sa.text("origin = 'real'")
    )
    op.drop_index(
        "ix_samples_unembedded", table_name="samples", postgresql_where=sa.text("embedding IS NULL")
    )
    op.drop_index("ix_samples_search", table_name="samples", postgresql_using="gin")
    op.drop_index(
        "ix_samples_embedding",
        table_name="samples",
        postgresql_using="hnsw",
        postgresql_ops={"embedding": "vector_cosine_ops"},
    )
    op.drop_index(op.f("ix_samples_dataset_id_origin_state_id"), table_name="samples")
    op.drop_index(op.f("ix_samples_dataset_id_id"), table_name="samples")
    op.drop_index(op.f("ix_samples_corrects"), table_name="samples")
    op.drop_table("samples")
    op.drop_table("failures")
    op.drop_table("attempts")
    op.drop_index(
        "ix_shards_lease", table_name="shards", postgresql_where=sa.text("state = 'leased'")
    )
    op.drop_table("shards")
    op.drop_index("ix_jobs_live", table_name="jobs", postgresql_where=sa.text("ended_at IS NULL"))
    op.drop_index(op.f("ix_jobs_dataset_id_id"), table_name="jobs")
    op.drop_table("jobs")
    op.drop_index(
        "ix_webhook_events_waiting",
        table_name="webhook_events",
        postgresql_where=sa.text("handled_at IS NULL"),
    )
    op.drop_table("webhook_events")
    op.drop_index(
        "ix_requests_waiting", table_name="requests", postgresql_where=sa.text("done_at IS NULL")
    )
    op.drop_table("requests")
    op.drop_index(op.f("ix_outbox_due_at"), table_name="outbox")
    op.drop_table("outbox")
    op.drop_table("model_pairs")
    op.drop_table("datasets")
    op.drop_table("api_tokens")
    op.execute("DROP FUNCTION keep_samples()")
