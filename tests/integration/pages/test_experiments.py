"""Experiments on the dashboard: asked for, watched, understood, used."""

import uuid
from typing import Any

from factory import datasets, experiments, jobs, shards
from factory.db import Database
from factory.tables import Job

from .conftest import Html, Visitor
from .test_pages import HOSTILE as CORPUS
from .test_pages import assert_inert

HOSTILE = CORPUS[0]


def measure(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 16, "note": None}


def measured(db: Database, job_id: uuid.UUID) -> None:
    """Do the workers' part of a sweep of one round, with numbers that are easy to check."""
    with db.transaction() as session:
        sweep = jobs.get(session, job_id)
        points = []
        for point in (sweep.result or {})["points"]:
            n = point["position"]
            values = {
                "coherence": 0.9 - n / 10,
                "diversity": 0.2 + n / 10,
                "harmonic": 0.3 + n / 20,
            }
            found = {name: {"name": name, **measure(value)} for name, value in values.items()}
            texts = [f"{HOSTILE} of {n}"] * 3
            more = {"round": 0, "error": None, "measures": found, "texts": texts, "jobs": []}
            points.append({**point, **more})
        best = points[-1]["position"]
        told = {
            "position": best,
            "objective": "harmonic",
            "score": measure(0.45),
            "gain": {"name": "gain", **measure(0.15)},
            "sure": True,
        }
        fit = {"verdict": "memorising", "because": ["20% are copies."], "context": "It reads."}
        sweep.result = {
            **(sweep.result or {}),
            "points": points,
            "recommendation": told,
            "fit": fit,
            "floor_of": "real",
        }
        for child in jobs.children(session, job_id):
            jobs.fail(session, child.id, "By hand.")
        for shard in jobs.shards_of(session, job_id):
            lease = shards.claim(session, shard.id, "cpu@a", 60)
            assert lease is not None
            shards.finish(session, lease)
        jobs.finish_if_done(session, job_id)


def asked(visitor: Visitor, dataset: str, model: str, **fields: str) -> uuid.UUID:
    body = {
        "dataset": dataset,
        "model": model,
        "points": "16",
        "count": "16",
        "method": "grid",
        "objective": "harmonic",
        "once": str(uuid.uuid4()),
        "guidance.gamma": "-0.5, .5",
        "guidance.eta": "0, 0.25,1",
        **fields,
    }
    sent = visitor.post("/experiments", body)
    assert sent.status_code == 303, sent.text
    assert visitor.post("/experiments", body).headers["Location"] == sent.headers["Location"]
    return uuid.UUID(sent.headers["Location"].rpartition("/")[2])


def test_an_experiment_from_the_form_to_the_next_job(
    visitor: Visitor, db: Database, dataset: str, model: str
) -> None:
    job_id = asked(visitor, dataset, model)
    running = visitor.get(f"/experiments/{job_id}").text
    assert "0 of 112 samples" in Html(running).text
    assert "Use these" not in running
    assert visitor.get(f"/jobs/{job_id}").headers["Location"] == f"/experiments/{job_id}"
    measured(db, job_id)
    source = visitor.get(f"/experiments/{job_id}").text
    assert_inert(source)
    html = Html(source)
    assert "γ .5 · η 1" in html.text
    assert "The expert is memorising" in html.text
    assert "more than chance" in html.text
    cells = [a for tag, a in html.tags if tag == "rect" and a.get("class") == "cell"]
    assert len(cells) == 6
    assert [float(str(a["fill-opacity"])) for a in cells][-1] == 0.5  # the best is the strongest
    dots = [a for tag, a in html.tags if "dot" in str(a.get("class")).split()]
    assert len([a for a in dots if a.get("r") in ("5", "8")]) == 6
    assert not [a for _, a in html.tags if "style" in a]
    beside = visitor.get(f"/experiments/{job_id}?beside=2").text
    assert Html(beside).text.count(f"{HOSTILE} of 2") == 3

    assert visitor.post(f"/experiments/{job_id}/use").status_code == 303
    with db.transaction() as session:
        found = datasets.get(session, dataset)
        spec = experiments.tried(session, job_id)[6][0].spec
    assert found.defaults["guidance"] == spec["guidance"]
    assert "in use" in visitor.get(f"/experiments/{job_id}").text
    form = Html(visitor.get(f"/jobs/new?dataset={dataset}").text)
    assert form.by_id("guidance.eta")["value"] == "1"
    assert form.by_id("guidance.gamma")["value"] == "0.5"
    assert f"defaults of {dataset}" in form.text
    shown = visitor.get(f"/datasets/{dataset}").text
    assert "γ .5 · η 1" in shown
    assert visitor.post(f"/datasets/{dataset}/defaults/clear").status_code == 303
    assert "γ .5 · η 1" not in visitor.get(f"/datasets/{dataset}").text


def test_other_settings_than_the_recommended_can_be_used(
    visitor: Visitor, db: Database, dataset: str, model: str
) -> None:
    job_id = asked(visitor, dataset, model)
    measured(db, job_id)
    visitor.post(f"/experiments/{job_id}/use", {"position": "1"})
    with db.transaction() as session:
        guidance = datasets.get(session, dataset).defaults["guidance"]
    assert (guidance["gamma"], guidance["eta"]) == (-0.5, 0)


def test_the_list_shows_sweeps_and_no_job_of_theirs(
    visitor: Visitor, db: Database, dataset: str, model: str
) -> None:
    job_id = asked(visitor, dataset, model)
    listed = visitor.get("/experiments").text
    assert str(job_id) in listed
    with db.transaction() as session:
        children = [str(child.id) for child in jobs.children(session, job_id)]
        first = session.get_one(Job, uuid.UUID(children[1]))
    assert len(children) == 8  # seven settings and the probe
    measured(db, job_id)
    page = visitor.get(f"/jobs?dataset={dataset}").text
    assert "7 settings" in page
    assert str(job_id) in page
    assert not [child for child in children if child in page]
    assert f"/experiments/{job_id}" in visitor.get(f"/jobs/{first.id}").text


def test_a_form_that_is_wrong_comes_back_with_the_reason(
    visitor: Visitor, dataset: str, model: str
) -> None:
    body = {"dataset": dataset, "model": model, "points": "1", "once": "x"}
    sent = visitor.post("/experiments", body)
    assert sent.status_code == 422
    assert Html(sent.text).by_id("points-error")
    wrong = visitor.post("/experiments", {**body, "points": "4", "guidance.eta": "99"})
    assert (wrong.status_code, "guidance.eta" in wrong.text) == (422, True)
    gone = visitor.post("/experiments", {**body, "points": "4", "dataset": "nowhere"})
    assert gone.status_code == 422
    assert Html(gone.text).by_id("dataset-error")


def test_what_is_no_sweep_has_no_page_here(visitor: Visitor, job: uuid.UUID) -> None:
    assert visitor.get(f"/experiments/{job}").status_code == 404
    assert visitor.post(f"/experiments/{job}/use").status_code == 409
