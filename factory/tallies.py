"""How many rows there are of each kind, without reading them.

Triggers add a row to `tallies` for every change of samples, pushes and reviews, in the same
transaction: what a reader sees is exact at any moment, and writers never wait for each other, as
they would for one shared counter. `compact` adds the rows up now and then.
"""

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from factory.tables import Tally

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Counted:
    """How many rows of a dataset have these facts in common."""

    dataset_id: uuid.UUID
    facts: Facts
    number: int


def read(
    session: Session, subject: str, dataset_ids: Collection[uuid.UUID] | None = None
) -> Sequence[Counted]:
    """The rows of a subject (`sample`, `push`, `review`) by their facts, none with number 0.

    Facts of a sample: origin, state, audit. Of a push: pushed. Of a live review: verdict,
    reasons, reviewer, day (of its last change, UTC). Without `dataset_ids`: of every dataset.
    """
    number = func.sum(Tally.number)
    statement = (
        select(Tally.dataset_id, Tally.facts, number)
        .where(Tally.subject == subject)
        .group_by(Tally.dataset_id, Tally.facts)
        .having(number != 0)
    )
    if dataset_ids is not None:
        statement = statement.where(Tally.dataset_id.in_(dataset_ids))
    return [Counted(id_, facts, int(n)) for id_, facts, n in session.execute(statement)]


def by(counted: Sequence[Counted], *names: str) -> dict[Any, int]:
    """Added up by one fact, or by a tuple of several."""
    key: Callable[[Facts], Any] = (
        (lambda facts: facts[names[0]])
        if len(names) == 1
        else (lambda facts: tuple(facts[name] for name in names))
    )
    sums: dict[Any, int] = {}
    for each in counted:
        sums[key(each.facts)] = sums.get(key(each.facts), 0) + each.number
    return sums


COMPACT = """
WITH gone AS (DELETE FROM tallies RETURNING dataset_id, subject, facts, number)
INSERT INTO tallies (dataset_id, subject, facts, number)
SELECT dataset_id, subject, facts, sum(number) FROM gone
GROUP BY dataset_id, subject, facts HAVING sum(number) <> 0
"""


def compact(session: Session) -> None:
    """Add rows up. Others may write and compact meanwhile: only rows that were deleted here are
    added up here."""
    session.execute(text(COMPACT))
