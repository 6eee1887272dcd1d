"""tallies"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# What is counted of a row of each table, and in which dataset it counts.
COUNTED = {
    "samples": (
        "sample",
        "SELECT r.dataset_id, jsonb_build_object("
        "'origin', r.origin, 'state', r.state, 'audit', r.audit) AS facts, {sign} AS number "
        "FROM {rows} r",
    ),
    "pushes": (
        "push",
        "SELECT r.dataset_id, jsonb_build_object('pushed', r.task_id IS NOT NULL) AS facts, "
        "{sign} AS number FROM {rows} r",
    ),
    "reviews": (
        "review",
        "SELECT s.dataset_id, jsonb_build_object("
        "'verdict', r.verdict, 'reasons', r.reasons, 'reviewer', r.reviewer, "
        "'day', to_char(r.updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')) AS facts, "
        "{sign} AS number FROM {rows} r JOIN samples s ON s.id = r.sample_id "
        "WHERE r.deleted_at IS NULL",
    ),
}
ADD = """
INSERT INTO tallies (dataset_id, subject, facts, number)
SELECT dataset_id, '{subject}', facts, sum(number) FROM ({rows}) changed
GROUP BY dataset_id, facts HAVING sum(number) <> 0
"""
FUNCTION = """
CREATE FUNCTION tally_{table}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN {inserted};
  ELSE {updated};
  END IF;
  RETURN NULL;
END $$
"""
TRIGGERS = {
    "insert": "REFERENCING NEW TABLE AS new_rows",
    "update": "REFERENCING NEW TABLE AS new_rows OLD TABLE AS old_rows",
}


def upgrade() -> None:
    op.create_table(
        "tallies",
        sa.Column("id", sa.BigInteger(), autoincrement=True, nullable=False),
        sa.Column("dataset_id", sa.Uuid(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("facts", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_tallies_dataset_id_datasets")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tallies")),
    )
    op.create_index(
        op.f("ix_tallies_subject_dataset_id"), "tallies", ["subject", "dataset_id"], unique=False
    )
    for table, (subject, rows) in COUNTED.items():
        _count_changes(table, subject, rows)
        # Making the triggers has locked the table against writers until the commit.
        op.execute(ADD.format(subject=subject, rows=rows.format(sign="1", rows=table)))


def downgrade() -> None:
    for table in COUNTED:
        for event in TRIGGERS:
            op.execute(f"DROP TRIGGER tally_{table}_{event} ON {table}")
        op.execute(f"DROP FUNCTION tally_{table}()")
    op.drop_index(op.f("ix_tallies_subject_dataset_id"), table_name="tallies")
    op.drop_table("tallies")


def _count_changes(table: str, subject: str, rows: str) -> None:
    new = rows.format(sign="1", rows="new_rows")
    old = rows.format(sign="-1", rows="old_rows")
    op.execute(
        FUNCTION.format(
            table=table,
            inserted=ADD.format(subject=subject, rows=new).strip(),
            updated=ADD.format(subject=subject, rows=f"{new} UNION ALL {old}").strip(),
        )
    )
    for event, referencing in TRIGGERS.items():
        op.execute(
            f"CREATE TRIGGER tally_{table}_{event} AFTER {event.upper()} ON {table} "
            f"{referencing} FOR EACH STATEMENT EXECUTE FUNCTION tally_{table}()"
        )
