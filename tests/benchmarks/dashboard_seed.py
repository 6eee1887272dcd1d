"""A factory of some years, made by SQL: many datasets, jobs, samples, negatives and reviews."""

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from factory.db import Database
from factory.spec import GenerateSpec
from factory.tables import EMBEDDING_DIMENSIONS

SLOW_TO_GROW = (
    "ix_samples_search",
    "ix_samples_embedding",
    "ix_samples_real_embedding",
)  # made after the rows are there


@dataclass(frozen=True)
class Scale:
    """How much there is. The first dataset has half of everything."""

    samples: int = 1_000_000
    jobs: int = 10_000
    datasets: int = 20
    reviews: int = 200_000
    embedded: int = 100_000  # samples that have an embedding


def fill(db: Database, scale: Scale) -> None:
    """Fill an empty, migrated database and gather statistics."""
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        definitions = [_drop(connection, name) for name in SLOW_TO_GROW]
        for statement in STATEMENTS:
            connection.execute(text(statement), _values(scale))
        connection.execute(text("SET maintenance_work_mem = '1GB'"))
        for definition in definitions:
            connection.execute(text(definition))
        connection.execute(text("VACUUM ANALYZE"))


def _drop(connection: Connection, index: str) -> str:
    """Drop an index; the statement that makes it again."""
    found = text("SELECT indexdef FROM pg_indexes WHERE indexname = :name")
    definition = connection.execute(found, {"name": index}).scalar_one()
    connection.execute(text(f"DROP INDEX {index}"))
    return str(definition)


def _values(scale: Scale) -> dict[str, Any]:
    return vars(scale) | {"spec": json.dumps(_spec()), "dimensions": EMBEDDING_DIMENSIONS}


def _spec() -> dict[str, Any]:
    """What a stored generate job says of itself."""
    asked = GenerateSpec(
        kind="generate", dataset="dataset-0", model="pair", count=100, seed=7, prompt="Hypothesis:"
    )
    return asked.model_dump(mode="json")


# A sample's dataset and job: every second one belongs to the first dataset.
STATEMENTS = (
    """INSERT INTO model_pairs (id, name, base, expert) VALUES (uuidv7(), 'pair', '/b', '/e')""",
    """INSERT INTO datasets (id, name, prompt)
       SELECT uuidv7(), 'dataset-' || n, 'Hypothesis:' FROM generate_series(0, :datasets - 1) n""",
    """CREATE TABLE seed_jobs AS
       SELECT n, uuidv7(make_interval(secs => n - :jobs)) AS id, uuidv7() AS shard_id,
              uuidv7() AS attempt_id,
              (SELECT id FROM datasets WHERE name = 'dataset-' ||
                 CASE WHEN n % 2 = 0 THEN 0 ELSE n / 2 % :datasets END) AS dataset_id
       FROM generate_series(0, :jobs - 1) n""",
    """INSERT INTO jobs (id, kind, dataset_id, model_id, state, spec, count, request_sha256,
                         created_at, started_at, ended_at)
       SELECT id, 'generate', dataset_id, (SELECT id FROM model_pairs),
              CASE WHEN n % 50 = 0 THEN 'failed' ELSE 'succeeded' END, CAST(:spec AS jsonb),
              :samples / :jobs, md5(n::text), now() - make_interval(secs => 60.0 * (:jobs - n)),
              now() - make_interval(secs => 60.0 * (:jobs - n)),
              now() - make_interval(secs => 60.0 * (:jobs - n) - 50)
       FROM seed_jobs""",
    """INSERT INTO shards (id, job_id, index, start, stop, state, fence)
       SELECT shard_id, id, 0, 0, :samples / :jobs, 'done', 1 FROM seed_jobs""",
    """INSERT INTO attempts (id, shard_id, fence, worker, environment, started_at, ended_at)
       SELECT attempt_id, shard_id, 1, 'gpu@' || n % 4, '{"device": "cpu", "slots": 32}',
              now() - make_interval(secs => 60.0 * (:jobs - n)),
              now() - make_interval(secs => 60.0 * (:jobs - n) - 50)
       FROM seed_jobs""",
    """INSERT INTO samples (id, dataset_id, origin, state, text, text_sha256, job_id, shard_id,
                            attempt_id, ordinal, seed, audit, token_ids, token_count,
                            finish_reason, embedding)
       SELECT uuidv7(make_interval(secs => 0.6 * (i - :samples))), dataset_id, 'synthetic',
              (ARRAY['generated','generated','in_review','accepted','accepted','rejected',
                     'filtered','fixed'])[1 + i % 8],
              'the word' || i % 9973 || ' of the term' || i % 499 || ' raises the item' || i,
              sha256(i::text::bytea), id, shard_id, attempt_id, i % (:samples / :jobs), i,
              i % 5 = 0, ARRAY[1, 2, 3], 24, 'eos',
              CASE WHEN i % (:samples / :embedded) = 0 THEN
                (SELECT array_agg(random() - .5 + (g + i) * 0)
                 FROM generate_series(1, :dimensions) g
                )::real[]::vector END
       FROM generate_series(0, :samples - 1) i
       JOIN seed_jobs ON n = i / (:samples / :jobs)""",
    """CREATE TABLE seed_samples AS
       SELECT id, dataset_id, state, row_number() OVER (ORDER BY id) AS i FROM samples""",
    """CREATE INDEX ON seed_samples (i)""",
    """INSERT INTO samples (id, dataset_id, origin, state, text, text_sha256)
       SELECT uuidv7(), datasets.id, 'real', 'accepted', 'a real text ' || i,
              sha256(('real' || i)::bytea)
       FROM datasets, generate_series(1, 300) i""",
    """INSERT INTO sample_negatives (sample_id, role, position, negative_id)
       SELECT s.id, 'negative', k, other.id FROM seed_samples s, generate_series(0, 2) k
       JOIN LATERAL (SELECT id FROM seed_samples o WHERE o.i = greatest(1, s.i - 37 * (k + 1)))
            other ON true
       WHERE s.i % 2 = 0""",
    """INSERT INTO near_copies (sample_id, dataset_id, why)
       SELECT id, dataset_id, 'near-copy of a real sample: cosine 0.97' FROM seed_samples
       WHERE i % 20 = 0""",
    """INSERT INTO pushes (sample_id, dataset_id, project_id, task_id, tried, pushed_at)
       SELECT id, dataset_id, 1, i, true, now() FROM seed_samples
       WHERE state <> 'generated' AND i <= 2 * :reviews""",
    """INSERT INTO reviews (id, sample_id, annotation_id, verdict, reasons, reviewer,
                            created_at, updated_at)
       SELECT uuidv7(), id, i,
              CASE state WHEN 'rejected' THEN 'reject' WHEN 'fixed' THEN 'fix' ELSE 'accept' END,
              CASE state WHEN 'rejected'
                   THEN ARRAY[(ARRAY['incoherent','off_topic','duplicate'])[1 + i % 3]]
                   ELSE '{}' END,
              'curator-' || i % 7 || '@example.org', now() - make_interval(mins => i::int % 40000),
              now() - make_interval(mins => i::int % 40000)
       FROM seed_samples WHERE state IN ('accepted','rejected','fixed') AND i <= 2 * :reviews""",
    """DROP TABLE seed_samples, seed_jobs""",
)
