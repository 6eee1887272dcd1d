"""One sample, and what a GPU worker is asked about it. A thread answers in a worker's place:
what workers answer is tested with real ones."""

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from apiflask import APIFlask

from factory import errors, near_copies, pushes, requests, samples
from factory.db import Database
from factory.settings import Settings
from factory.web import create_app
from factory.web.state import KEY

REPLAY = {"identical": True, "text": "text 1", "expected": "text 1", "first_difference": None}


def test_a_sample_is_shown_with_its_task(api: Any, known: Any, db: Database) -> None:
    with db.transaction() as session:
        pushes.mark_pushed(session, 1, {known.samples[1]: 42})
    shown = api.get(f"/samples/{known.samples[1]}").get_json()
    assert shown.items() >= {
        "dataset": "known", "origin": "synthetic", "state": "in_review", "text": "text 1",
        "job": str(known.job), "ordinal": 1, "audit": False, "tokens": 2, "task": 42, "reviews": [],
    }.items()  # fmt: skip


def test_near_copies_are_listed_and_say_what_they_repeat(
    api: Any, known: Any, db: Database
) -> None:
    real = api.get("/datasets/known/samples?origin=real").get_json()["items"][0]["id"]
    with db.transaction() as session:
        of = samples.get(session, uuid.UUID(real))
        why = "near-copy of a real sample: cosine 0.96"
        near_copies.mark(session, of.dataset_id, [(known.samples[2], of.id, why)])
    only = api.get("/datasets/known/samples?near_copy=true").get_json()["items"]
    assert [each["id"] for each in only] == [str(known.samples[2])]
    others = api.get("/datasets/known/samples?near_copy=false&limit=200").get_json()["items"]
    assert str(known.samples[2]) not in {each["id"] for each in others}
    shown = api.get(f"/samples/{known.samples[2]}").get_json()["near_copy"]
    assert shown == {"of": real, "why": why}
    assert api.get(f"/samples/{known.samples[3]}").get_json()["near_copy"] is None


def test_provenance_names_all_that_made_it(api: Any, known: Any) -> None:
    made = api.get(f"/samples/{known.samples[1]}/provenance").get_json()
    assert made["job"] == str(known.job)
    assert (made["ordinal"], made["seed"], made["device"]) == (1, 1, "cpu")
    assert made["guidance"]["rule"] == "steer"
    assert made["model"]["base"]["ref"].endswith("/base")
    assert made["negatives"] == made["center"] == []
    assert made["created_at"].endswith("Z")


def test_a_real_sample_has_no_provenance(api: Any, known: Any) -> None:
    real = api.get("/datasets/known/samples?origin=real").get_json()["items"][0]
    assert api.get(f"/samples/{real['id']}/provenance").status_code == 409
    assert api.post(f"/samples/{real['id']}/replay").status_code == 409


def test_neighbours_are_the_nearest(api: Any, known: Any, db: Database) -> None:
    path = f"/samples/{known.samples[1]}/neighbors"
    assert api.get(path).status_code == 409, "it has no embedding yet"
    vectors = [[1.0, i / 10, *[0.0] * 382] for i in range(6)]
    with db.transaction() as session:
        samples.set_embeddings(session, list(zip(known.samples, vectors, strict=True)))
    near = api.get(f"{path}?k=3").get_json()["items"]
    assert {item["id"] for item in near} == {str(known.samples[i]) for i in (0, 2, 3)}
    assert [n["similarity"] for n in near] == sorted((n["similarity"] for n in near), reverse=True)
    assert 0.9 < near[0]["similarity"] < 1
    assert api.get(f"{path}?k=101").status_code == 422


@pytest.fixture(scope="module")
def patient(settings: Settings, app: APIFlask) -> Iterator[APIFlask]:
    """The same application, which waits for a worker."""
    waits = create_app(settings.model_copy(update={"request_wait_seconds": 30}))
    yield waits
    waits.extensions[KEY].db.close()


@contextmanager
def worker(db: Database, result: dict[str, Any] | errors.FactoryError) -> Iterator[list[Any]]:
    """Answers the next request in a worker's place; gives the payloads that were asked."""
    asked: list[Any] = []
    stop = threading.Event()

    def serve() -> None:
        while not asked and not stop.wait(0.02):
            with db.transaction() as session:
                for request_id in requests.pending(session):
                    request = requests.waiting(session, request_id)
                    if request is None:
                        continue
                    asked.append((request.kind, request.payload))
                    if isinstance(result, errors.FactoryError):
                        requests.refuse(session, request, result)
                    else:
                        requests.answer(session, request, result)

    thread = threading.Thread(target=serve)
    thread.start()
    yield asked
    stop.set()
    thread.join()


def test_a_replay_that_is_done_in_time_is_the_answer(
    patient: APIFlask, api: Any, known: Any, db: Database
) -> None:
    call = type(api)(patient.test_client())
    with worker(db, REPLAY) as asked:
        response = call.post(f"/samples/{known.samples[1]}/replay")
    assert (response.status_code, response.get_json()) == (200, REPLAY)
    assert asked == [("replay", {"sample": str(known.samples[1])})]


def test_a_worker_that_refuses_is_a_problem(
    patient: APIFlask, api: Any, known: Any, db: Database
) -> None:
    call = type(api)(patient.test_client())
    path = f"/samples/{known.samples[1]}/explanation"
    with worker(db, errors.ModelError("The files have changed.")):
        response = call.get(path)
    assert response.status_code == 422
    assert response.mimetype == "application/problem+json"
    assert response.get_json()["detail"] == "The files have changed."
    with worker(db, errors.FactoryError("secret of the inside")):
        response = call.get(path)
    assert response.status_code == 500
    assert "secret" not in response.text


def test_what_takes_long_is_found_at_its_location(api: Any, known: Any, db: Database) -> None:
    response = api.post(f"/samples/{known.samples[1]}/replay")
    assert response.status_code == 202
    there = response.headers["Location"]
    pending = api.get(there).get_json()
    assert pending == response.get_json()
    assert (pending["kind"], pending["state"], pending["result"]) == ("replay", "pending", None)
    with db.transaction() as session:
        request = requests.waiting(session, uuid.UUID(pending["id"]))
        assert request is not None
        requests.answer(session, request, REPLAY)
    done = api.get(there).get_json()
    assert (done["state"], done["result"]) == ("done", REPLAY)


def test_a_preview_makes_few_and_asks_with_the_whole_spec(
    patient: APIFlask, api: Any, known: Any, db: Database
) -> None:
    call = type(api)(patient.test_client())
    few = [{"seed": 1, "text": "x", "tokens": 1}]
    body = {"kind": "generate", "dataset": "known", "model": "pair", "count": 500, "seed": 3}
    with worker(db, {"guided": few, "unguided": few}) as asked:
        response = call.post("/jobs/preview", json=body)
    assert (response.status_code, response.get_json()) == (200, {"guided": few, "unguided": few})
    kind, payload = asked[0]
    assert kind == "preview"
    spec = payload["spec"]
    assert (spec["count"], spec["seed"], spec["prompt"]) == (8, 3, "Write a hypothesis:")
    assert call.post("/jobs/preview", json=body | {"model": "none"}).status_code == 422


def test_a_sample_is_pinned_retired_and_drawn_as_any_other_again(api: Any, known: Any) -> None:
    sample = str(known.samples[2])
    for kind in ("pinned", "retired"):
        answer = api("PUT", f"/samples/{sample}/mark", json={"kind": kind})
        assert (answer.status_code, answer.get_json()) == (200, {"sample": sample, "kind": kind})
    assert api("PUT", f"/samples/{sample}/mark", json={"kind": "x"}).status_code == 422
    freed = api("DELETE", f"/samples/{sample}/mark")
    assert freed.get_json() == {"sample": sample, "kind": None}
    nobody = uuid.UUID(int=1)
    assert api("DELETE", f"/samples/{nobody}/mark").status_code == 404
