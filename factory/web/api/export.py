"""A dataset as a file: jsonl, parquet or csv, streamed; or its card."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from flask import Response
from pydantic import BaseModel, ConfigDict, Field

from factory import datasets, exports, tables
from factory.spec import SampleState
from factory.web import card, shapes
from factory.web.api.blueprint import blueprint
from factory.web.openapi import document
from factory.web.state import current

Record = dict[str, Any]
Encoder = Callable[[Iterator[Record]], Iterator[bytes]]

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "dataset", "origin", "state", "text", "label")),
        *((name, pa.string()) for name in ("created_at", "corrects", "job")),
        *((name, pa.int64()) for name in ("ordinal", "seed")),
        ("audit", pa.bool_()),
        *((name, pa.string()) for name in ("model", "rule")),
        *((name, pa.float64()) for name in ("gamma", "eta", "alpha", "nucleus", "temperature")),
        ("device", pa.string()),
    ]
)
COLUMNS = SCHEMA.names
BATCH = 500  # records held at once
MEDIA_TYPES = {
    "jsonl": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
    "csv": "text/csv",
    "card": "text/markdown",
}
FORMULA = ("=", "+", "-", "@", "\t", "\r")

routes = blueprint("export")


class ExportQuery(BaseModel):
    """What to export, and how."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["jsonl", "parquet", "csv", "card"] = Field(
        "jsonl",
        description="csv is meant for spreadsheets: a cell that one would read as a formula "
        "gets a ' before it. jsonl and parquet hold every text exactly. card describes the "
        "dataset in Markdown.",
    )
    state: list[SampleState] = Field(["accepted"], description="Any of these; may be repeated")
    origin: shapes.Origin | None = None


@routes.get("/datasets/<name>/export")
@routes.input(ExportQuery, location="query", arg_name="query")
@routes.doc(responses={200: document("The file", *MEDIA_TYPES.values())})
def export_dataset(name: str, query: ExportQuery) -> Response:
    """Download samples with how each was made, oldest first, as they are in one moment."""
    with current().db.transaction() as session:
        dataset = datasets.get(session, name)
    encode = _ENCODERS.get(query.format)
    body = encode(_records(dataset, query)) if encode else iter([_card(dataset, query)])
    suffix = "md" if query.format == "card" else query.format
    headers = {"Content-Disposition": f'attachment; filename="{name}.{suffix}"'}
    return Response(body, mimetype=MEDIA_TYPES[query.format], headers=headers)


def _card(dataset: tables.Dataset, query: ExportQuery) -> bytes:
    with current().db.transaction() as session:
        return card.dataset_card(session, dataset, query.state, query.origin).encode()


def _records(dataset: tables.Dataset, query: ExportQuery) -> Iterator[Record]:
    """Records, read as they are sent, from one snapshot of the database."""
    database = current().db

    def read() -> Iterator[Record]:
        with database.transaction() as session:
            session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            yield from exports.records(session, dataset, query.state, query.origin)

    return read()


def as_jsonl(records: Iterator[Record]) -> Iterator[bytes]:
    """A JSON object a line."""
    for record in records:
        yield json.dumps(record, ensure_ascii=False).encode() + b"\n"


def as_csv(records: Iterator[Record]) -> Iterator[bytes]:
    """RFC 4180, with formulas made harmless for spreadsheets."""
    yield _csv([dict(zip(COLUMNS, COLUMNS, strict=True))])
    for batch in _batches(records):
        yield _csv({name: _harmless(value) for name, value in row.items()} for row in batch)


def as_parquet(records: Iterator[Record]) -> Iterator[bytes]:
    """Parquet, a row group for each batch of records."""
    sink = _Sink()
    with pq.ParquetWriter(sink, SCHEMA) as writer:
        for batch in _batches(records):
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=SCHEMA))
            yield sink.taken()
    yield sink.taken()


class _Sink(io.RawIOBase):
    """A file that is only written to; what was written can be taken out as one goes."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self._pieces.append(bytes(piece))
        return len(piece)

    def taken(self) -> bytes:
        """All that was written since the last call."""
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    while batch := list(islice(records, BATCH)):
        yield batch


_ENCODERS: dict[str, Encoder] = {"jsonl": as_jsonl, "csv": as_csv, "parquet": as_parquet}


def _csv(rows: Iterable[Record]) -> bytes:
    sink = io.StringIO(newline="")
    csv.DictWriter(sink, COLUMNS).writerows(rows)
    return sink.getvalue().encode()


def _harmless(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
