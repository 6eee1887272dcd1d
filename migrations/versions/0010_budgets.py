"""budgets: how much may be asked for in a day, and how much was"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "budgets",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("dataset_id", sa.Uuid(), nullable=True),
        sa.Column("token_id", sa.Uuid(), nullable=True),
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("unit IN ('samples','tokens')", name=op.f("ck_budgets_unit")),
        sa.CheckConstraint("amount >= 0", name=op.f("ck_budgets_amount")),
        sa.CheckConstraint("dataset_id IS NULL OR token_id IS NULL", name=op.f("ck_budgets_whose")),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_budgets_dataset_id_datasets")
        ),
        sa.ForeignKeyConstraint(
            ["token_id"], ["api_tokens.id"], name=op.f("fk_budgets_token_id_api_tokens")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_budgets")),
        sa.UniqueConstraint(
            "dataset_id",
            "token_id",
            "unit",
            name=op.f("uq_budgets_dataset_id_token_id_unit"),
            postgresql_nulls_not_distinct=True,
        ),
    )
    op.create_table(
        "spends",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("dataset_id", sa.Uuid(), nullable=False),
        sa.Column("token_id", sa.Uuid(), nullable=True),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("samples", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_spends_job_id_jobs")),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_spends_dataset_id_datasets")
        ),
        sa.ForeignKeyConstraint(
            ["token_id"], ["api_tokens.id"], name=op.f("fk_spends_token_id_api_tokens")
        ),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_spends")),
    )
    op.create_index(op.f("ix_spends_day_dataset_id"), "spends", ["day", "dataset_id"])


def downgrade() -> None:
    op.drop_index(op.f("ix_spends_day_dataset_id"), table_name="spends")
    op.drop_table("spends")
    op.drop_table("budgets")
