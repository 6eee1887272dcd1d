"""Datasets: made, filled, listed page by page."""

import json
import uuid
from datetime import UTC, datetime
from typing import Any

from hypothesis import HealthCheck, given
from hypothesis import settings as options
from hypothesis import strategies as st

from factory import datasets, jobs
from factory.db import Database


def test_a_dataset_is_made_once(api: Any) -> None:
    new = {"name": "twice", "prompt": "Say:", "description": "d", "labels": ["a"]}
    made = api.post("/datasets", json=new)
    assert made.status_code == 201
    assert made.headers["Location"] == "/api/v1/datasets/twice"
    shown = api.get(made.headers["Location"]).get_json()
    assert shown == made.get_json()
    assert shown.items() >= new.items()
    assert shown["counts"] == {"origin": {}, "state": {}}
    assert uuid.UUID(shown["id"]).version == 7
    assert shown["created_at"].endswith("Z")
    assert api.post("/datasets", json=new).status_code == 409


def test_an_import_takes_the_good_lines_and_names_the_bad(api: Any, dataset: str) -> None:
    lines = [
        '{"text": "one", "label": "a", "meta": {"page": 1}}',
        '{"text": "one"}',
        "",
        "{",
        '{"txt": "x"}',
        '{"text": " "}',
        r'{"text": "a\u0000b"}',
        r'{"text": "x", "meta": {"a": "\ud800"}}',
        '{"text": 5}',
        '{"text": "zwei – 二"}',
    ]
    path = f"/datasets/{dataset}/samples"
    answer = api.post(path, data="\n".join(lines).encode()).get_json()
    assert (answer["imported"], answer["duplicates"]) == (2, 1)
    assert [bad["line"] for bad in answer["rejected"]] == [4, 5, 6, 7, 8, 9]
    assert all(bad["error"] for bad in answer["rejected"])
    again = api.post(path, data=lines[0].encode()).get_json()
    assert (again["imported"], again["duplicates"]) == (0, 1)
    items = api.get(path).get_json()["items"]
    assert [item["text"] for item in items] == ["zwei – 二", "one"]
    assert items[1]["meta"] == {"page": 1}
    assert items[1].items() >= {"origin": "real", "state": "accepted", "label": "a"}.items()


def test_an_import_has_a_limit(api: Any, dataset: str) -> None:
    path = f"/datasets/{dataset}/samples"
    line = json.dumps({"text": "x" * 90}).encode() + b"\n"
    assert api.post(path, data=line * 2_000).status_code == 413
    assert api.get(path).get_json()["items"] == []
    assert api.post(path, data=b"").status_code == 422


def test_samples_are_filtered(api: Any, known: Any) -> None:
    def texts(query: str) -> list[str]:
        page = api.get(f"/datasets/known/samples?{query}").get_json()
        return [item["text"] for item in page["items"]]

    assert texts("origin=real") == ["a real one"]
    assert texts("state=filtered") == [""]
    assert len(texts("state=filtered&state=accepted")) == 2
    assert texts("q=text -4 -5 -3 -2") == ["text 1"]
    assert len(texts(f"job={known.job}")) == 6
    assert texts(f"job={uuid.uuid4()}") == []


@given(st.data())
@options(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pages_show_each_row_once_while_rows_are_added(
    api: Any, db: Database, data: st.DataObject
) -> None:
    name = f"p-{uuid.uuid4().hex}"
    with db.transaction() as session:
        made = datasets.create(session, name, "p")
    _add(db, name, data.draw(st.integers(0, 9)))
    there = {item["id"] for item in api.get(f"/datasets/{name}/samples?limit=200").json["items"]}
    seen: list[str] = []
    query = ""
    while True:
        limit = data.draw(st.integers(1, 4))
        page = api.get(f"/datasets/{name}/samples?limit={limit}{query}").get_json()
        assert len(page["items"]) <= limit
        seen += [item["id"] for item in page["items"]]
        _add(db, name, data.draw(st.integers(0, 2)))
        if page["next_cursor"] is None:
            break
        query = f"&cursor={page['next_cursor']}"
    assert made.name == name
    assert len(seen) == len(set(seen))
    assert there <= set(seen)
    assert seen == sorted(seen, reverse=True)


def _add(db: Database, name: str, count: int) -> None:
    with db.transaction() as session:
        lines = [json.dumps({"text": uuid.uuid4().hex}).encode() for _ in range(count)]
        datasets.import_lines(session, datasets.get(session, name), lines)


def test_datasets_are_paged(api: Any, dataset: str) -> None:
    first = api.get("/datasets?limit=1").get_json()
    assert [item["name"] for item in first["items"]] == [dataset]
    rest = api.get(f"/datasets?limit=200&cursor={first['next_cursor']}").get_json()
    assert rest["next_cursor"] is None
    assert dataset not in [item["name"] for item in rest["items"]]


def test_metrics_tell_guided_from_audited(api: Any, known: Any) -> None:
    metrics = api.get("/datasets/known/metrics").get_json()
    assert metrics["counts"]["origin"] == {"real": 1, "synthetic": 6}
    assert metrics["guided"] == {"made": 5, "decided": 0, "rejected": 0, "reject_rate": None}
    assert metrics["audit"]["made"] == 1
    assert metrics["reviews"]["waiting"] == 5


def test_metrics_show_the_newest_evaluation_that_is_done(
    api: Any, db: Database, dataset: str
) -> None:
    assert api.get(f"/datasets/{dataset}/metrics").get_json()["evaluation"] is None
    body = {"kind": "evaluate", "dataset": dataset, "metrics": ["length"]}
    ids = [api.post("/jobs", json=body).get_json()["id"] for _ in range(2)]
    length = {"name": "length", "value": 4.0, "low": 3.5, "high": 4.5, "n": 9, "note": None}
    nothing = {"name": "length", "value": None, "low": None, "high": None, "n": 0, "note": "none"}
    found = {"samples": 9, "real": 0, "measures": [length], "reference": [nothing]}
    with db.transaction() as session:
        done = jobs.get(session, uuid.UUID(ids[0]))
        done.state, done.result, done.ended_at = "succeeded", found, datetime.now(UTC)
    evaluation = api.get(f"/datasets/{dataset}/metrics").get_json()["evaluation"]
    assert evaluation.pop("ended_at").endswith("Z")
    assert evaluation == {"job": ids[0], "of": None, **found}


def test_negatives_show_the_pools(api: Any, known: Any) -> None:
    negatives = api.get("/datasets/known/negatives").get_json()
    assert negatives["pools"] == {"real": 1, "synthetic": 5, "rejected": 0}
    assert negatives["items"] == []
    assert api.get("/datasets/known/reviews").get_json() == {"items": [], "next_cursor": None}


def test_a_sync_without_label_studio_says_what_is_missing(api: Any, known: Any) -> None:
    response = api.post("/datasets/known/reviews/sync")
    assert response.status_code == 409
    assert "FACTORY_LABEL_STUDIO_URL" in response.get_json()["detail"]
