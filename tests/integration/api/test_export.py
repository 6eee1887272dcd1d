"""A dataset as a file."""

import csv
import io
import json
import uuid
from typing import Any

import pyarrow.parquet as pq
import pytest

from factory import datasets
from factory.db import Database

TEXTS = ["plain", "=SUM(A1)", "-5 degrees", 'with "quotes", and\nlines', "ünï"]


@pytest.fixture(scope="module")
def filled(db: Database) -> str:
    name = f"e-{uuid.uuid4().hex}"
    with db.transaction() as session:
        dataset = datasets.create(session, name, "Say\nsomething:", "About it.")
        datasets.import_lines(session, dataset, [json.dumps({"text": t}).encode() for t in TEXTS])
    return name


def export(api: Any, name: str, query: str) -> Any:
    response = api.get(f"/datasets/{name}/export?{query}")
    assert response.status_code == 200
    assert response.headers["Content-Disposition"].startswith(f'attachment; filename="{name}.')
    return response


def test_jsonl_and_parquet_hold_every_text_exactly(api: Any, filled: str) -> None:
    lines = export(api, filled, "format=jsonl").text.splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["text"] for row in rows] == TEXTS
    table = pq.read_table(io.BytesIO(export(api, filled, "format=parquet").data))
    assert table.to_pylist() == rows


def test_csv_does_not_run_in_a_spreadsheet(api: Any, filled: str) -> None:
    rows = list(csv.DictReader(io.StringIO(export(api, filled, "format=csv").text, newline="")))
    assert [row["text"] for row in rows] == [
        "plain", "'=SUM(A1)", "'-5 degrees", 'with "quotes", and\nlines', "ünï"
    ]  # fmt: skip


def test_states_and_origins_are_chosen(api: Any, known: Any) -> None:
    def ordinals(query: str) -> list[int | None]:
        lines = export(api, "known", query).text.splitlines()
        return [json.loads(line)["ordinal"] for line in lines]

    assert ordinals("") == [None]
    assert ordinals("state=generated&state=filtered") == [0, 1, 2, 3, 4, 5]
    assert ordinals("state=generated&state=accepted&origin=synthetic") == [1, 2, 3, 4, 5]
    made = json.loads(export(api, "known", "state=generated").text.splitlines()[0])
    assert made.items() >= {"model": "pair", "rule": "steer", "eta": 0.5, "device": "cpu"}.items()


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_an_empty_export_is_a_whole_file(api: Any, dataset: str, form: str) -> None:
    data = export(api, dataset, f"format={form}").data
    if form == "parquet":
        assert pq.read_table(io.BytesIO(data)).num_rows == 0
    else:
        assert data.count(b"\n") == (form == "csv")


def test_many_rows_are_streamed_in_pieces(api: Any, db: Database, dataset: str) -> None:
    lines = [json.dumps({"text": f"text {i}"}).encode() for i in range(1200)]
    with db.transaction() as session:
        datasets.import_lines(session, datasets.get(session, dataset), lines)
    for form in ("csv", "parquet"):
        response = api.get(f"/datasets/{dataset}/export?format={form}")
        assert len([piece for piece in response.response if piece]) > 2
    data = export(api, dataset, "format=parquet").data
    texts = pq.read_table(io.BytesIO(data)).column("text").to_pylist()
    assert texts == [f"text {i}" for i in range(1200)]
    assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_the_card_tells_what_it_is_and_how_it_was_made(api: Any, known: Any, filled: str) -> None:
    card = export(api, filled, "format=card").text
    assert card.startswith("---\npretty_name:")
    assert "About it." in card
    assert "> Say\n> something:" in card
    assert "| real | 5 |" in card
    assert "| pair | steer | 0.0 | 0.5 | 1 |" in export(api, "known", "format=card").text
