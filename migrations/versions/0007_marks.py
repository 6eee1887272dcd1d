"""marks: negatives that someone pinned or retired; maps: where samples lie"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "marks",
        sa.Column("sample_id", sa.Uuid(), nullable=False),
        sa.Column("dataset_id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column(
            "created_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("kind IN ('pinned','retired')", name=op.f("ck_marks_kind")),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_marks_dataset_id_datasets")
        ),
        sa.ForeignKeyConstraint(
            ["sample_id"], ["samples.id"], name=op.f("fk_marks_sample_id_samples")
        ),
        sa.PrimaryKeyConstraint("sample_id", name=op.f("pk_marks")),
    )
    op.create_index(op.f("ix_marks_dataset_id_kind"), "marks", ["dataset_id", "kind"])
    op.create_table(
        "maps",
        sa.Column("dataset_id", sa.Uuid(), nullable=False),
        sa.Column("points", postgresql.JSONB(), nullable=False),
        sa.Column(
            "made_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_maps_dataset_id_datasets")
        ),
        sa.PrimaryKeyConstraint("dataset_id", name=op.f("pk_maps")),
    )


def downgrade() -> None:
    op.drop_table("maps")
    op.drop_index(op.f("ix_marks_dataset_id_kind"), table_name="marks")
    op.drop_table("marks")
