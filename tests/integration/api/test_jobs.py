"""Jobs: submitted once, shown, held, ended, followed."""

import importlib
import json
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from apiflask import APIFlask
from sqlalchemy import func, select

from factory import jobs, outbox, tables
from factory.db import Database
from factory.settings import Settings
from factory.web.state import WAITING

pytestmark = pytest.mark.usefixtures("known")


def generate(**more: Any) -> dict[str, Any]:
    return {"kind": "generate", "dataset": "known", "model": "pair", "count": 130, **more}


def submit(api: Any, body: dict[str, Any], key: str | None = None) -> Any:
    return api.post("/jobs", json=body, headers={"Idempotency-Key": key} if key else {})


def test_a_job_is_stored_whole_with_its_shards(api: Any) -> None:
    made = submit(api, generate(seed=7, guidance={"eta": 1}, shard_size=64))
    assert made.status_code == 201
    job = api.get(made.headers["Location"]).get_json()
    assert job == made.get_json()
    assert (job["state"], job["dataset"], job["model"]) == ("pending", "known", "pair")
    assert job["spec"]["guidance"] == {
        "rule": "steer", "gamma": 0.0, "eta": 1.0, "alpha": 0.0, "nucleus": 0.95
    }  # fmt: skip
    assert job["spec"]["prompt"] == "Write a hypothesis:"
    assert job["progress"].items() >= {"planned": 130, "done": 0, "failed": 0}.items()
    shards = api.get(f"/jobs/{job['id']}/shards").get_json()["items"]
    assert [(s["start"], s["stop"]) for s in shards] == [(0, 64), (64, 128), (128, 130)]


def test_each_shard_is_owed_to_a_worker(api: Any, db: Database) -> None:
    job_id = submit(api, generate()).get_json()["id"]
    with db.transaction() as session:
        shards = jobs.shards_of(session, uuid.UUID(job_id))
        owed = session.scalars(select(tables.Outbox.key)).all()
    assert {shard.id for shard in shards} <= set(owed)


def test_a_key_makes_one_job(api: Any) -> None:
    first = submit(api, generate(), "k-1")
    again = submit(api, generate(), "k-1")
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.get_json()["id"] == first.get_json()["id"]
    assert again.headers["Location"] == first.headers["Location"]
    other = submit(api, generate(count=1), "k-1")
    assert other.status_code == 409
    assert first.get_json()["id"] in other.get_json()["detail"]
    assert submit(api, generate()).get_json()["id"] != first.get_json()["id"]


@pytest.mark.parametrize("key", [" ", "a b", "é", "x" * 256])
def test_a_key_is_visible_and_short(api: Any, key: str) -> None:
    response = submit(api, generate(), key)
    assert response.status_code == 422
    assert response.get_json()["errors"][0]["field"] == "idempotency_key"


def test_one_key_from_many_threads_makes_one_job(app: APIFlask, api: Any, db: Database) -> None:
    start = threading.Barrier(8)

    def post(_: int) -> tuple[int, str]:
        call = type(api)(app.test_client())
        start.wait()
        response = submit(call, generate(), "k-many")
        return response.status_code, response.get_json()["id"]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(8)))
    assert sorted(status for status, _ in answers) == [200] * 7 + [201]
    assert len({job_id for _, job_id in answers}) == 1
    with db.transaction() as session:
        key = tables.Job.idempotency_key == "k-many"
        assert session.scalar(select(func.count()).select_from(tables.Job).where(key)) == 1


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"dataset": "none"}, "dataset"),
        ({"model": "none"}, "model"),
        ({"count": 0}, "count"),
        ({"count": "5"}, "count"),
        ({"count": 1.5}, "count"),
        ({"guidance": {"alpha": 2}}, "guidance.alpha"),
        ({"guidance": {"gama": 0}}, "guidance.gama"),
        ({"sampling": {"stop": [""]}}, "sampling.stop.0"),
        ({"preset": "paper", "guidance": None}, "guidance"),
        ({"kind": "dream"}, ""),
    ],
)
def test_a_bad_spec_names_its_field(api: Any, change: dict[str, Any], field: str) -> None:
    response = submit(api, generate(**change))
    assert response.status_code == 422
    assert [error["field"] for error in response.get_json()["errors"]] == [field]


def test_the_papers_preset_and_a_whole_float_are_taken(api: Any) -> None:
    body = json.dumps(generate(preset="paper", guidance={"eta": 0.4})).replace("130", "2.0")
    job = api.post("/jobs", data=body, content_type="application/json").get_json()
    assert job["progress"]["planned"] == 2
    assert job["spec"]["guidance"]["gamma"] == 0.2
    assert job["spec"]["guidance"]["eta"] == 0.4
    assert job["spec"]["sampling"]["top_k"] == 10


def train(**more: Any) -> dict[str, Any]:
    return {"kind": "train", "dataset": "known", "model": "new", "base": "demo", **more}


def test_training_makes_a_pair_that_is_not_there_yet(api: Any, settings: Settings) -> None:
    made = submit(api, train(), "t-1")
    assert made.status_code == 201
    assert submit(api, train(), "t-1").status_code == 200
    assert submit(api, train()).status_code == 409, "one is in training"
    assert submit(api, train(model="pair")).status_code == 409, "it is there"
    elsewhere = submit(api, train(model="other", base="/etc"))
    assert [e["field"] for e in elsewhere.get_json()["errors"]] == ["base"]
    base = str(settings.model_roots[0] / "base")
    assert submit(api, train(model="other", base=base)).status_code == 201


def test_an_evaluation_is_submitted_to_a_cpu_worker(api: Any, known: Any, db: Database) -> None:
    body = {"kind": "evaluate", "dataset": "known", "job": str(known.job), "metrics": ["yield"]}
    made = submit(api, body)
    assert made.status_code == 201
    job = made.get_json()
    assert (job["kind"], job["model"], job["progress"]["planned"]) == ("evaluate", None, 1)
    assert job["spec"]["job"] == str(known.job)
    with db.transaction() as session:
        (shard,) = jobs.shards_of(session, uuid.UUID(job["id"]))
        assert outbox.version(session, outbox.MEASURE, shard.id) is not None
    assert api.get(f"/jobs/{job['id']}").get_json()["spec"] == job["spec"]


def test_only_samples_of_the_datasets_own_jobs_are_evaluated(api: Any, dataset: str) -> None:
    trained = submit(api, train(model="another")).get_json()["id"]
    jobs_of_known = api.get("/jobs?dataset=known&state=succeeded").get_json()["items"]
    for name, job in ((dataset, jobs_of_known[0]["id"]), ("known", trained), ("known", dataset)):
        response = submit(api, {"kind": "evaluate", "dataset": name, "job": job})
        assert response.status_code == 422
        assert [error["field"] for error in response.get_json()["errors"]] == ["job"]


def test_jobs_are_listed_by_dataset_and_state(api: Any, known: Any) -> None:
    ended = api.get("/jobs?dataset=known&state=succeeded").get_json()
    assert [job["id"] for job in ended["items"]] == [str(known.job)]
    assert ended["items"][0]["progress"].items() >= {"done": 6, "filtered": 1}.items()
    newest = api.get("/jobs?limit=1").get_json()
    assert newest["next_cursor"] is not None
    assert api.get("/jobs?dataset=none").status_code == 422


def test_a_job_is_held_resumed_and_cancelled(api: Any) -> None:
    path = f"/jobs/{submit(api, generate()).get_json()['id']}"
    assert api.post(f"{path}/resume").status_code == 409
    assert api.post(f"{path}/pause").get_json()["state"] == "paused"
    assert api.post(f"{path}/resume").get_json()["state"] == "pending"
    ended = api.post(f"{path}/cancel").get_json()
    assert ended["state"] == "cancelled"
    assert ended["ended_at"] is not None
    for action in ("cancel", "pause", "resume"):
        assert api.post(f"{path}/{action}").status_code == 409


def test_a_jobs_samples_are_pushed_later(api: Any, known: Any) -> None:
    response = api.post(f"/jobs/{known.job}/push")
    assert (response.status_code, response.get_json()) == (202, {"owed": 0})


def events(body: bytes) -> list[dict[str, Any]]:
    blocks = [block for block in body.decode().split("\n\n") if block.startswith("event:")]
    assert all(block.startswith("event: progress\ndata: ") for block in blocks)
    return [json.loads(block.split("data: ", 1)[1]) for block in blocks]


def test_events_of_an_ended_job_are_its_last_state(api: Any, known: Any) -> None:
    response = api.get(f"/jobs/{known.job}/events")
    assert response.mimetype == "text/event-stream"
    assert events(response.data) == [api.get(f"/jobs/{known.job}").get_json()]
    response.close()


@pytest.mark.parametrize("kind", ["generate", "train"])
def test_events_follow_a_job_to_its_end_and_come_only_with_news(
    api: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = generate() if kind == "generate" else train(model="followed")
    path = f"/jobs/{submit(api, spec).get_json()['id']}"
    actions = iter(["", "", "pause", "", "", "cancel"])

    def pause_between_looks(_: float) -> None:
        if action := next(actions):
            api.post(f"{path}/{action}")

    clock = SimpleNamespace(monotonic=time.monotonic, sleep=pause_between_looks)
    monkeypatch.setattr(importlib.import_module("factory.web.api.events"), "time", clock)
    with api.get(f"{path}/events") as response:
        seen = events(response.data)
    assert [job["state"] for job in seen] == ["pending", "paused", "cancelled"]


def test_only_so_many_streams_are_open_and_no_connection_is_held(api: Any, db: Database) -> None:
    job_id = submit(api, generate()).get_json()["id"]
    open_ones = [api.get(f"/jobs/{job_id}/events") for _ in range(WAITING)]
    for response in open_ones:
        next(iter(response.response))
    assert db.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    refused = api.get(f"/jobs/{job_id}/events")
    assert refused.status_code == 503
    assert refused.headers["Retry-After"]
    for response in open_ones:
        response.close()
    again = api.get(f"/jobs/{job_id}/events")
    assert again.status_code == 200
    again.close()
