"""indexes for samples by reason"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_reviews_reasons", "reviews", ["reasons"], postgresql_using="gin")
    op.create_index(
        "ix_samples_filtered",
        "samples",
        ["dataset_id", "filter_reason"],
        postgresql_where=sa.text("filter_reason IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_samples_filtered", table_name="samples")
    op.drop_index("ix_reviews_reasons", table_name="reviews")
