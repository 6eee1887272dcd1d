"""near-copies: generated samples that repeat another; an index for the nearest real sample"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

FILTERED = """
INSERT INTO near_copies (sample_id, dataset_id, why)
SELECT id, dataset_id, filter_reason FROM samples WHERE filter_reason LIKE 'near-copy of %'
"""


def upgrade() -> None:
    op.create_table(
        "near_copies",
        sa.Column("sample_id", sa.Uuid(), nullable=False),
        sa.Column("dataset_id", sa.Uuid(), nullable=False),
        sa.Column("of", sa.Uuid(), nullable=True),
        sa.Column("why", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_near_copies_dataset_id_datasets")
        ),
        sa.ForeignKeyConstraint(
            ["sample_id"], ["samples.id"], name=op.f("fk_near_copies_sample_id_samples")
        ),
        sa.ForeignKeyConstraint(["of"], ["samples.id"], name=op.f("fk_near_copies_of_samples")),
        sa.PrimaryKeyConstraint("sample_id", name=op.f("pk_near_copies")),
    )
    op.create_index(
        op.f("ix_near_copies_dataset_id_sample_id"), "near_copies", ["dataset_id", "sample_id"]
    )
    op.create_index(
        "ix_samples_real_embedding",
        "samples",
        ["embedding"],
        postgresql_using="hnsw",
        postgresql_ops={"embedding": "vector_cosine_ops"},
        postgresql_where=sa.text("origin = 'real'"),
    )
    op.execute(FILTERED)


def downgrade() -> None:
    op.drop_index("ix_samples_real_embedding", table_name="samples")
    op.drop_index(op.f("ix_near_copies_dataset_id_sample_id"), table_name="near_copies")
    op.drop_table("near_copies")
