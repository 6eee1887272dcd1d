"""levers of feedback: a dataset's setting, and what was fitted"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    jsonb = postgresql.JSONB(astext_type=sa.Text())
    op.add_column("datasets", sa.Column("feedback", jsonb, server_default="{}", nullable=False))
    op.create_table(
        "fitted_levers",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("dataset_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("made_from", sa.String(), nullable=False),
        sa.Column("settings", jsonb, nullable=False),
        sa.Column("settings_sha256", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=True),
        sa.Column("verdicts", sa.Integer(), nullable=False),
        sa.Column("rejected", sa.Integer(), nullable=False),
        sa.Column("evidence_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("result", jsonb, server_default="{}", nullable=False),
        sa.Column("note", sa.String(), nullable=True),
        sa.Column(
            "fitted_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_fitted_levers_dataset_id_datasets")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fitted_levers")),
        sa.UniqueConstraint("made_from", name=op.f("uq_fitted_levers_made_from")),
    )
    op.create_index(
        op.f("ix_fitted_levers_dataset_id_name_id"), "fitted_levers", ["dataset_id", "name", "id"]
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_fitted_levers_dataset_id_name_id"), table_name="fitted_levers")
    op.drop_table("fitted_levers")
    op.drop_column("datasets", "feedback")
