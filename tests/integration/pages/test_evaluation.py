"""Evaluations on the dashboard: asked for with a button, shown as lines with bars."""

import uuid

from factory import jobs, shards
from factory.db import Database

from .conftest import Html, Visitor
from .test_pages import assert_inert

LENGTH = {"name": "length", "value": 4.0, "low": 3.0, "high": 5.0, "n": 9, "note": None}
WEAK = {"name": "mauve", "value": None, "low": None, "high": None, "n": 9, "note": "80 are needed."}
YIELD = {"name": "yield", "value": 0.25, "low": 0.125, "high": 0.5, "n": 9, "note": None}


def evaluated(db: Database, job_id: uuid.UUID) -> None:
    """Do a worker's part of an evaluate job."""
    with db.transaction() as session:
        job = jobs.get(session, job_id)
        job.result = {
            "samples": 9,
            "real": 8,
            "measures": [LENGTH, WEAK, YIELD],
            "reference": [LENGTH | {"value": 2.0, "low": 1.0, "high": 2.5}],
        }
        (shard,) = jobs.shards_of(session, job_id)
        lease = shards.claim(session, shard.id, "cpu@a", 60)
        assert lease is not None
        shards.finish(session, lease)
        jobs.finish_if_done(session, job_id)


def test_an_evaluation_is_asked_for_and_shown(
    visitor: Visitor, db: Database, dataset: str, job: uuid.UUID, made: list[uuid.UUID]
) -> None:
    assert "Evaluate" in visitor.get(f"/datasets/{dataset}").text
    sent = visitor.post(f"/datasets/{dataset}/evaluate", {"job": str(job)})
    assert sent.status_code == 303
    job_id = uuid.UUID(sent.headers["Location"].rpartition("/")[2])
    waiting = visitor.get(f"/jobs/{job_id}").text
    assert "factory worker cpu" in waiting
    evaluated(db, job_id)
    for path in (f"/jobs/{job_id}", f"/jobs/{job}", f"/datasets/{dataset}"):
        source = visitor.get(path).text
        assert_inert(source)
        assert "9 samples beside 8 real ones" in source
        assert ".125 to .5" in source
        assert "80 are needed." in source
    bars = Html(visitor.get(f"/jobs/{job_id}").text).tags
    shown = [a for tag, a in bars if tag == "rect" and a.get("class") == "interval made"]
    # By group: yield (12.5 to 50 of 100), then length, to the scale of its highest, 5.
    assert [(a["x"], a["width"]) for a in shown] == [("12.5", "37.5"), ("60.0", "40.0")]


def test_an_evaluation_of_what_is_not_there_is_refused(visitor: Visitor, dataset: str) -> None:
    assert visitor.post("/datasets/nowhere/evaluate").status_code == 404
    for job in ("7", str(uuid.uuid4())):
        refused = visitor.post(f"/datasets/{dataset}/evaluate", {"job": job})
        assert (refused.status_code, refused.mimetype) == (422, "text/html")


def test_a_dataset_without_samples_has_nothing_to_evaluate(visitor: Visitor, dataset: str) -> None:
    assert "Evaluate" not in visitor.get(f"/datasets/{dataset}").text
