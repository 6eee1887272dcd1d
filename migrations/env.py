"""Alembic's entry: migrates the database of FACTORY_DATABASE_URL."""

from alembic import context
from sqlalchemy import create_engine, pool, text

from factory.settings import load
from factory.tables import Base

LOCK_KEY = 0x57EE2  # one migration at a time, whoever starts it


def run() -> None:
    """Run the migrations under an advisory lock, each with lock and statement timeouts."""
    engine = create_engine(load().database_url, poolclass=pool.NullPool)
    with engine.connect() as connection:
        connection.execute(text(f"SELECT pg_advisory_lock({LOCK_KEY})"))
        connection.execute(text("SET lock_timeout = '10s'"))
        connection.execute(text("SET statement_timeout = '30min'"))
        connection.commit()
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            compare_type=True,
            compare_server_default=False,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()


run()
