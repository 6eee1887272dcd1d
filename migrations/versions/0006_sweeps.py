"""defaults of datasets, jobs of sweeps"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "datasets",
        sa.Column("defaults", postgresql.JSONB(), server_default="{}", nullable=False),
    )
    op.add_column("jobs", sa.Column("parent_id", sa.Uuid(), nullable=True))
    op.add_column("jobs", sa.Column("position", sa.Integer(), nullable=True))
    op.create_foreign_key("fk_jobs_parent_id", "jobs", "jobs", ["parent_id"], ["id"])
    op.create_index(
        "ix_jobs_parent",
        "jobs",
        ["parent_id"],
        postgresql_where=sa.text("parent_id IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_parent", "jobs")
    op.drop_constraint("fk_jobs_parent_id", "jobs")
    op.drop_column("jobs", "position")
    op.drop_column("jobs", "parent_id")
    op.drop_column("datasets", "defaults")
