"""Datasets, and the import of their real samples."""

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from factory import outbox, strict_json, tallies
from factory.errors import Conflict, NotFound
from factory.feedback import Feedback
from factory.ids import new_id
from factory.spec import Defaults
from factory.tables import Dataset, Sample

MAX_TEXT = 100_000  # characters
CHUNK = 500  # rows in one INSERT


class RealSample(BaseModel):
    """One line of an import."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: str = Field(min_length=1, max_length=MAX_TEXT)
    label: str | None = Field(None, max_length=200)
    meta: dict[str, Any] = {}

    @field_validator("text")
    @classmethod
    def _not_blank(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("is blank")
        return text


@dataclass(frozen=True)
class LineError:
    """A line that was not imported, and why. Lines count from 1."""

    line: int
    error: str


@dataclass
class Imported:
    """What an import did."""

    imported: int = 0
    duplicates: int = 0
    rejected: list[LineError] = field(default_factory=list)


def create(
    session: Session,
    name: str,
    prompt: str,
    description: str = "",
    labels: Sequence[str] = (),
) -> Dataset:
    """A new dataset. Raises Conflict when the name is taken."""
    dataset = Dataset(name=name, prompt=prompt, description=description, labels=list(labels))
    try:
        with session.begin_nested():
            session.add(dataset)
    except IntegrityError as error:
        raise Conflict(f"There is a dataset named '{name}' already.") from error
    session.refresh(dataset)
    return dataset


def get(session: Session, name: str) -> Dataset:
    """The dataset of this name. Raises NotFound."""
    dataset = session.scalar(select(Dataset).where(Dataset.name == name))
    if dataset is None:
        raise NotFound(f"There is no dataset named '{name}'.")
    return dataset


def set_feedback(dataset: Dataset, feedback: Feedback) -> None:
    """Say which levers the dataset's later jobs use."""
    dataset.feedback = feedback.model_dump(mode="json")


def list_all(
    session: Session, *, before: uuid.UUID | None = None, limit: int | None = None
) -> Sequence[Dataset]:
    """Every dataset, newest first; or a page: `limit` of them, older than `before`."""
    statement = select(Dataset).order_by(Dataset.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(Dataset.id < before)
    return session.scalars(statement).all()


def defaults(dataset: Dataset) -> Defaults:
    """What the dataset's generate jobs take where they leave something out."""
    return Defaults.model_validate(dataset.defaults)


def set_defaults(dataset: Dataset, given: Defaults) -> None:
    """Put these in the place of what there was; empty ones give none."""
    dataset.defaults = given.model_dump(mode="json", exclude_unset=True, exclude_none=True)


def counts(session: Session, dataset: Dataset) -> dict[str, dict[str, int]]:
    """How many samples there are, by origin and by state."""
    return counts_of(session, [dataset])[dataset.id]


def counts_of(
    session: Session, some: Sequence[Dataset]
) -> dict[uuid.UUID, dict[str, dict[str, int]]]:
    """The `counts` of several datasets, by their ids."""
    counted = tallies.read(session, "sample", [dataset.id for dataset in some])
    mine = {d.id: [each for each in counted if each.dataset_id == d.id] for d in some}
    return {
        id_: {"origin": tallies.by(each, "origin"), "state": tallies.by(each, "state")}
        for id_, each in mine.items()
    }


def import_lines(session: Session, dataset: Dataset, lines: Iterable[bytes]) -> Imported:
    """Import NDJSON, a real sample a line: all valid lines go in, the others are named.

    A duplicate has the exact text of a real sample that the dataset has already.
    """
    result = Imported()
    for chunk in _chunks(_parse(lines, result)):
        stored = _insert(session, dataset, chunk)
        result.imported += stored
        result.duplicates += len(chunk) - stored
    if result.imported:
        outbox.owe(session, outbox.EMBED, dataset.id)
    return result


def _parse(lines: Iterable[bytes], result: Imported) -> Iterator[RealSample]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield RealSample.model_validate(strict_json.loads(line.strip()))
        except ValidationError as error:
            result.rejected.append(LineError(number, _reason(error)))
        except strict_json.NotStorable as error:
            result.rejected.append(LineError(number, str(error)))
        except strict_json.NotJson as error:
            result.rejected.append(LineError(number, f"not JSON in UTF-8: {error}"))


def _reason(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"]


def _insert(session: Session, dataset: Dataset, chunk: Sequence[RealSample]) -> int:
    rows = [
        {
            "id": new_id(),
            "dataset_id": dataset.id,
            "origin": "real",
            "state": "accepted",
            "text": sample.text,
            "text_sha256": hashlib.sha256(sample.text.encode()).digest(),
            "label": sample.label,
            "meta": sample.meta,
        }
        for sample in chunk
    ]
    statement = insert(Sample).values(rows).on_conflict_do_nothing().returning(Sample.id)
    return len(session.execute(statement).all())


def _chunks(samples: Iterator[RealSample]) -> Iterator[list[RealSample]]:
    chunk: list[RealSample] = []
    for sample in samples:
        chunk.append(sample)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
