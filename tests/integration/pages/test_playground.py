"""The playground: what is asked of a worker, and what is shown as its samples come."""

import uuid
from typing import Any

from factory import requests
from factory.db import Database
from factory.tables import Request

from .conftest import Html, Visitor
from .test_forms import filled, jobs_of
from .test_pages import HOSTILE, assert_inert


def rows(*texts: str) -> list[dict[str, Any]]:
    return [
        {"ordinal": n, "seed": n, "text": text, "tokens": 2, "surprise": 0.5}
        for n, text in enumerate(texts)
    ]


def tried(visitor: Visitor, db: Database, **fields: str) -> Request:
    """What a press on the button asks for."""
    answer = visitor.post("/playground", filled(visitor, "/playground", **fields))
    assert answer.status_code == 303, answer.text
    with db.transaction() as session:
        return requests.get(session, uuid.UUID(answer.location.rsplit("/", 1)[1]))


def answered(db: Database, request: Request, result: dict[str, Any]) -> None:
    with db.transaction() as session:
        requests.answer(session, requests.get(session, request.id), result)


def test_eight_samples_are_asked_for_and_the_seed_is_kept(
    visitor: Visitor, db: Database, dataset: str, model: str
) -> None:
    given = {"dataset": dataset, "model": model, "count": "500", "guidance.eta": "0.7"}
    asked = tried(visitor, db, **given)
    assert asked.kind == "preview"
    assert asked.payload["spec"]["count"] == 8
    assert asked.payload["spec"]["guidance"]["eta"] == 0.7
    assert asked.payload["spec"]["prompt"] == "Write a hypothesis:"
    again = filled(visitor, f"/playground/{asked.id}")
    assert again["seed"] == str(asked.payload["spec"]["seed"])
    assert (again["count"], again["guidance.eta"]) == ("500", "0.7")


def test_samples_appear_as_they_come_and_differences_are_marked(
    visitor: Visitor, db: Database, dataset: str, model: str
) -> None:
    asked = tried(visitor, db, dataset=dataset, model=model)
    assert "GPU worker is asked" in visitor.get(f"/playground/{asked.id}/samples").text
    with db.transaction() as session:
        requests.note(session, asked.id, {"unguided": rows("a red fox"), "guided": []})
    path = f"/playground/{asked.id}/samples"
    first = visitor.get(path).text
    assert "a red fox" in Html(first).text
    assert "1 of 16 are made" in first
    assert visitor.get(f"{path}?seen=2").status_code == 204
    answered(db, asked, {"unguided": rows("a red fox", "b"), "guided": rows("a blue fox", "b")})
    done = visitor.get(f"{path}?seen=2").text
    assert "<mark>blue</mark>" in done
    assert "<mark>red</mark>" in done
    assert "1 of 8 came out the same" in done
    assert "hx-trigger" not in done


def test_texts_grow_token_by_token(
    visitor: Visitor, db: Database, dataset: str, model: str
) -> None:
    """What is not whole is shown as it is: not compared, not counted, and asked for again."""
    asked = tried(visitor, db, dataset=dataset, model=model)
    path = f"/playground/{asked.id}/samples"

    def noted(guided: str, tokens: int) -> None:
        growing = {"ordinal": 0, "seed": 0, "text": guided, "tokens": tokens, "partial": True}
        with db.transaction() as session:
            requests.note(session, asked.id, {"unguided": rows("a red fox"), "guided": [growing]})

    noted("a", 1)
    page = Html(visitor.get(path).text)
    assert "1 of 16 are made" in page.text
    assert "not whole yet" in page.text
    assert "<mark>" not in visitor.get(path).text
    asks = str(page.by_id("tried")["hx-get"])
    assert visitor.get(asks).status_code == 204
    noted("a blue", 2)
    assert "a blue" in visitor.get(asks).text
    shared = Html(visitor.get(f"/playground/{asked.id}").text)
    assert "a blue" in shared.text
    assert ("noscript", {}) in shared.tags


def test_what_is_liked_is_submitted(
    visitor: Visitor, db: Database, dataset: str, model: str
) -> None:
    asked = tried(visitor, db, dataset=dataset, model=model, **{"guidance.gamma": "0.4"})
    named = {"dataset": dataset, "model": model}
    visitor.post("/jobs/new", filled(visitor, f"/playground/{asked.id}", count="30", **named))
    [job] = jobs_of(db, dataset)
    assert (job.count, job.spec["guidance"]["gamma"]) == (30, 0.4)
    assert job.spec["seed"] == asked.payload["spec"]["seed"]
    assert job.spec["sampling"]["stop"] == ["\n"]
    edited = visitor.post("/jobs/new/form", filled(visitor, f"/playground/{asked.id}", **named))
    assert Html(edited.text).by_id("guidance.gamma")["value"] == "0.4"


def test_a_wrong_field_is_named_and_nothing_is_asked(
    visitor: Visitor, db: Database, dataset: str, model: str
) -> None:
    form = filled(visitor, "/playground", dataset=dataset, model=model, **{"guidance.eta": "99"})
    answer = visitor.post("/playground", form)
    assert answer.status_code == 422
    assert "Nothing was tried" in answer.text
    assert Html(answer.text).by_id("guidance.eta")["aria-invalid"] == "true"


def test_a_request_that_is_not_of_the_playground_is_not_shown_there(
    visitor: Visitor, db: Database
) -> None:
    with db.transaction() as session:
        other = requests.create(session, "replay", {"sample": str(uuid.uuid4())})
    assert visitor.get(f"/playground/{other.id}").status_code == 404


def test_hostile_samples_and_settings_do_nothing(
    visitor: Visitor, db: Database, dataset: str, model: str
) -> None:
    asked = tried(visitor, db, dataset=dataset, model=model, prompt=" ".join(HOSTILE))
    reverse = HOSTILE[::-1]
    answered(db, asked, {"unguided": rows(*HOSTILE[:8]), "guided": rows(*reverse[:8])})
    page = assert_inert(visitor.get(f"/playground/{asked.id}").text)
    assert "<script>alert(1)</script>" in page.text


def test_time_and_tokens_are_estimated_from_what_was_measured(
    visitor: Visitor, db: Database, dataset: str, model: str, made: list[uuid.UUID]
) -> None:
    form = filled(visitor, dataset=dataset, model=model, count="1000")
    shown = Html(visitor.post("/jobs/new/same", form).text).text
    assert "2,000 tokens" in shown
    assert "last 4 samples of this pair" in shown
    assert "other streams" not in shown
    other = visitor.post("/jobs/new/same", form | {"guidance.eta": "0", "guidance.gamma": "1"})
    assert "made with other streams" in other.text
