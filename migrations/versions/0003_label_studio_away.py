"""circuits, and how far reviews were reconciled"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "circuits",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("since", TIME, nullable=True),
        sa.Column("retry_at", TIME, nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_circuits")),
    )
    op.add_column("datasets", sa.Column("reviews_until", TIME, nullable=True))
    op.add_column("datasets", sa.Column("reviews_compared_at", TIME, nullable=True))
    op.add_column("pushes", sa.Column("task_updated_at", TIME, nullable=True))
    op.alter_column("reviews", "annotation_id", nullable=True)


def downgrade() -> None:
    op.execute("DELETE FROM reviews WHERE annotation_id IS NULL")
    op.alter_column("reviews", "annotation_id", nullable=False)
    op.drop_column("pushes", "task_updated_at")
    op.drop_column("datasets", "reviews_compared_at")
    op.drop_column("datasets", "reviews_until")
    op.drop_table("circuits")
