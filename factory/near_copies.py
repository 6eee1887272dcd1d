"""Near-copies: generated samples that repeat another, marked when a gate filters them out or when
a worker embeds them and finds a real sample that is nearly the same."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from factory.tables import NearCopy, Sample

CANDIDATES = 5  # nearest real samples that each new one is compared with


@dataclass(frozen=True)
class Candidate:
    """A generated sample and one of the real ones nearest to it, with the cosine between."""

    sample_id: uuid.UUID
    text: str
    real_id: uuid.UUID
    real_text: str
    cosine: float


def candidates(
    session: Session, dataset_id: uuid.UUID, sample_ids: Sequence[uuid.UUID]
) -> list[Candidate]:
    """Of each of these samples that was generated and has an embedding, the nearest real ones."""
    session.execute(text("SET LOCAL hnsw.iterative_scan = strict_order"))
    made, real = aliased(Sample), aliased(Sample)
    away = real.embedding.cosine_distance(made.embedding)
    nearest = (
        select(real.id, real.text, away.label("away"))
        .where(real.dataset_id == dataset_id, real.origin == "real", real.embedding.is_not(None))
        .order_by(away)
        .limit(CANDIDATES)
        .correlate(made)
        .lateral()
    )
    statement = (
        select(made.id, made.text, nearest.c.id, nearest.c.text, 1 - nearest.c.away)
        .join(nearest, onclause=text("true"))
        .where(made.id.in_(sample_ids), made.origin == "synthetic", made.embedding.is_not(None))
    )
    return [Candidate(*row) for row in session.execute(statement)]


def mark(
    session: Session, dataset_id: uuid.UUID, found: Sequence[tuple[uuid.UUID, uuid.UUID, str]]
) -> None:
    """Note near-copies: (sample, the one that it repeats, why). What a gate said stays."""
    rows = [
        {"sample_id": sample_id, "dataset_id": dataset_id, "of": of, "why": why}
        for sample_id, of, why in found
    ]
    if rows:
        new = insert(NearCopy).values(rows)
        session.execute(
            new.on_conflict_do_update(
                index_elements=[NearCopy.sample_id],
                set_={"of": func.coalesce(NearCopy.of, new.excluded.of)},
            )
        )


def of_samples(session: Session, sample_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, NearCopy]:
    """Those of these samples that are near-copies."""
    rows = session.scalars(select(NearCopy).where(NearCopy.sample_id.in_(sample_ids)))
    return {row.sample_id: row for row in rows}


def of_job(session: Session, job_id: uuid.UUID) -> int:
    """How many samples of a job are near-copies."""
    marked = select(func.count()).join(Sample, Sample.id == NearCopy.sample_id)
    return session.scalar(marked.select_from(NearCopy).where(Sample.job_id == job_id)) or 0
