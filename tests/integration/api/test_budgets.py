"""Budgets over HTTP: set, listed, refused and taken away."""

import uuid
from typing import Any


def test_a_budget_is_set_spent_refused_and_taken_away(api: Any, known: Any, dataset: str) -> None:
    made = api("PUT", "/budgets", json={"dataset": dataset, "amount": 5}).get_json()
    assert (made["unit"], made["amount"], made["spent"], made["left"]) == ("samples", 5, 0, 5)
    body = {"kind": "generate", "dataset": dataset, "model": known.model, "count": 4}
    assert api.post("/jobs", json=body).status_code == 201
    refused = api.post("/jobs", json=body)
    assert (refused.status_code, refused.mimetype) == (403, "application/problem+json")
    problem = refused.get_json()
    assert problem["type"] == "urn:steer-factory:over-budget"
    assert problem["title"] == "The budget is spent"
    assert "Ask for at most 1" in problem["detail"]
    assert 0 < int(refused.headers["Retry-After"]) <= 86_400
    listed = api.get("/budgets").get_json()
    (mine,) = [each for each in listed["items"] if each["dataset"] == dataset]
    assert (mine["id"], mine["spent"], mine["left"]) == (made["id"], 4, 1)
    assert listed["today"]["samples"] >= 4
    assert len(api.get(f"/jobs?dataset={dataset}").get_json()["items"]) == 1
    assert api("DELETE", f"/budgets/{made['id']}").status_code == 204
    assert api("DELETE", f"/budgets/{made['id']}").status_code == 404
    assert api.post("/jobs", json=body).status_code == 201


def test_what_cannot_be_a_budget_is_refused(api: Any, dataset: str) -> None:
    for wrong in (
        {"dataset": dataset, "amount": -1},
        {"dataset": dataset, "amount": 1, "unit": "hours"},
        {"dataset": dataset, "token": str(uuid.uuid4()), "amount": 1},
        {"dataset": dataset},
    ):
        assert api("PUT", "/budgets", json=wrong).status_code == 422, wrong
    assert api("PUT", "/budgets", json={"dataset": "none", "amount": 1}).status_code == 404
    assert api("PUT", "/budgets", json={"token": str(uuid.uuid4()), "amount": 1}).status_code == 404
