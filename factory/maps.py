"""A dataset's samples in two dimensions, so that one sees where generation goes.

A CPU worker draws a map from the samples' embeddings when someone asks for it; what is shown of
each point is read when the map is.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select, union_all
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from factory import outbox
from factory.tables import Map, Sample

MADE, REAL = 2400, 600  # the newest ones that are drawn
SHOWN_LETTERS = 100  # of a point's text

Vectors = Sequence[tuple[uuid.UUID, Sequence[float]]]


@dataclass(frozen=True)
class Point:
    """One sample on a map."""

    id: uuid.UUID
    x: float
    y: float
    origin: str
    state: str
    created_at: datetime
    text: str


def ask(session: Session, dataset_id: uuid.UUID) -> None:
    """Have a worker draw the dataset's map anew."""
    outbox.owe(session, outbox.DRAW_MAP, dataset_id)


def is_asked(session: Session, dataset_id: uuid.UUID) -> bool:
    """Whether a worker has yet to draw it."""
    return outbox.version(session, outbox.DRAW_MAP, dataset_id) is not None


def vectors(session: Session, dataset_id: uuid.UUID) -> Vectors:
    """The embeddings of the newest made and the newest real samples, the newest first."""
    parts = [
        select(Sample.id)
        .where(Sample.dataset_id == dataset_id, Sample.embedding.is_not(None))
        .where(Sample.origin.in_(origins))
        .order_by(Sample.id.desc())
        .limit(most)
        for origins, most in ((("synthetic", "corrected"), MADE), (("real",), REAL))
    ]
    newest = union_all(*parts).subquery()
    statement = select(Sample.id, Sample.embedding).where(Sample.id.in_(select(newest.c.id)))
    rows = session.execute(statement.order_by(Sample.id.desc()))
    return [(id_, vector) for id_, vector in rows if vector is not None]


def store(
    session: Session, dataset_id: uuid.UUID, points: Sequence[tuple[uuid.UUID, float, float]]
) -> None:
    """Keep a drawn map in the place of an earlier one."""
    rows = [[str(id_), round(x, 4), round(y, 4)] for id_, x, y in points]
    anew = {"points": rows, "made_at": func.clock_timestamp()}
    statement = insert(Map).values(dataset_id=dataset_id, points=rows)
    session.execute(statement.on_conflict_do_update(index_elements=["dataset_id"], set_=anew))


def made_at(session: Session, dataset_id: uuid.UUID) -> datetime | None:
    """When the map was drawn; None when there is none."""
    return session.scalar(select(Map.made_at).where(Map.dataset_id == dataset_id))


def points(session: Session, dataset_id: uuid.UUID) -> list[Point]:
    """The map's points as their samples are now, the oldest first."""
    drawn = session.scalar(select(Map.points).where(Map.dataset_id == dataset_id)) or []
    places = {uuid.UUID(id_): (x, y) for id_, x, y in drawn}
    statement = (
        select(Sample.id, Sample.origin, Sample.state, Sample.created_at)
        .add_columns(func.left(Sample.text, SHOWN_LETTERS).label("text"))
        .where(Sample.id.in_(places))
        .order_by(Sample.id)
    )
    return [
        Point(row.id, *places[row.id], row.origin, row.state, row.created_at, row.text)
        for row in session.execute(statement)
    ]
