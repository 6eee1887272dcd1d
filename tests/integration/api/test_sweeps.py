"""Sweeps and defaults over HTTP."""

import uuid
from typing import Any

import pytest

from factory import jobs, requests
from factory.db import Database
from factory.tables import Job

from .conftest import Api, Known

SPACE = {"guidance.gamma": [-0.5, 0.5]}


def sweep(known: Known, dataset: str, **fields: Any) -> dict[str, Any]:
    body = {"kind": "sweep", "dataset": dataset, "model": known.model, "method": "grid"}
    return {**body, "space": SPACE, "count": 4, "seed": 1, **fields}


def generate(known: Known, dataset: str, **fields: Any) -> dict[str, Any]:
    return {"kind": "generate", "dataset": dataset, "model": known.model, "count": 1, **fields}


def recommended(db: Database, job_id: str, position: int) -> None:
    """What a worker writes at the end."""
    with db.transaction() as session:
        job = session.get_one(Job, uuid.UUID(job_id))
        job.result = {**(job.result or {}), "recommendation": {"position": position}}


def test_a_sweep_is_submitted_once_and_its_jobs_say_whose_they_are(
    api: Api, known: Known, dataset: str, db: Database
) -> None:
    key = {"Idempotency-Key": uuid.uuid4().hex}
    first = api.post("/jobs", json=sweep(known, dataset), headers=key)
    again = api.post("/jobs", json=sweep(known, dataset), headers=key)
    assert (first.status_code, again.status_code) == (201, 200)
    job = first.get_json()
    assert again.get_json()["id"] == job["id"]
    assert (job["progress"]["planned"], job["parent"]) == (12, None)
    assert [point["choice"] for point in job["result"]["points"]][1:] == [
        {"guidance.gamma": -0.5},
        {"guidance.gamma": 0.5},
    ]
    with db.transaction() as session:
        children = [child.id for child in jobs.children(session, uuid.UUID(job["id"]))]
    assert len(children) == 4  # the probe, and three settings
    shown = [api.get(f"/jobs/{id_}").get_json() for id_ in children]
    assert {each["parent"] for each in shown} == {job["id"]}
    assert [each["position"] for each in shown] == [None, 0, 1, 2]
    listed = [each["id"] for each in api.get(f"/jobs?dataset={dataset}").get_json()["items"]]
    assert listed == [job["id"]]


def test_used_settings_are_those_of_the_next_job_and_preview(
    api: Api, known: Known, dataset: str, db: Database
) -> None:
    job = api.post("/jobs", json=sweep(known, dataset)).get_json()["id"]
    assert api.post(f"/jobs/{job}/use", json={}).status_code == 409
    recommended(db, job, 1)
    used = api.post(f"/jobs/{job}/use", json={}).get_json()
    assert used["defaults"]["guidance"]["gamma"] == -0.5
    assert used["defaults"]["job"] == job
    assert api.get(f"/datasets/{dataset}").get_json()["defaults"] == used["defaults"]
    made = api.post("/jobs", json=generate(known, dataset, guidance={"eta": 0.1})).get_json()
    assert (made["spec"]["guidance"]["gamma"], made["spec"]["guidance"]["eta"]) == (-0.5, 0.1)
    own = api.post("/jobs", json=generate(known, dataset, preset="default")).get_json()
    assert own["spec"]["guidance"]["gamma"] == 0
    asked = api.post("/jobs/preview", json=generate(known, dataset)).headers["Location"]
    with db.transaction() as session:
        waiting = requests.get(session, uuid.UUID(asked.rpartition("/")[2]))
        assert waiting.payload["spec"]["guidance"]["gamma"] == -0.5
    other = api.post(f"/jobs/{job}/use", json={"position": 2}).get_json()
    assert other["defaults"]["guidance"]["gamma"] == 0.5
    assert api.post(f"/jobs/{job}/use", json={"position": 9}).status_code == 422
    assert api("PUT", f"/datasets/{dataset}/defaults", json={}).get_json()["defaults"] == {}


def test_defaults_are_checked(api: Api, dataset: str) -> None:
    path = f"/datasets/{dataset}/defaults"
    refused = api("PUT", path, json={"guidance": {"eta": 99}})
    assert refused.status_code == 422
    assert refused.get_json()["errors"][0]["field"] == "guidance.eta"
    assert api("PUT", path, json={"other": 1}).status_code == 422
    set_ = api("PUT", path, json={"sampling": {"temperature": 0.5}}).get_json()
    assert set_["defaults"] == {"sampling": {"temperature": 0.5}}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"space": {"guidance.gamma": [99]}}, ""),
        ({"space": {"nothing": [1]}}, "space.nothing"),
        ({"points": 1}, "points"),
        ({"dataset": "nowhere"}, "dataset"),
        ({"model": "nowhere"}, "model"),
    ],
)
def test_a_bad_sweep_is_refused(
    api: Api, known: Known, dataset: str, change: dict[str, Any], field: str
) -> None:
    refused = api.post("/jobs", json={**sweep(known, dataset), **change})
    assert refused.status_code == 422
    assert refused.get_json()["errors"][0]["field"].startswith(field)


def test_settings_of_another_kind_of_job_cannot_be_used(api: Api, known: Known) -> None:
    refused = api.post(f"/jobs/{known.job}/use", json={})
    assert (refused.status_code, "generate job" in refused.get_json()["detail"]) == (409, True)
