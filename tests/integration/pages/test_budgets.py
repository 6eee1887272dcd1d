"""Budgets on the settings page, and what a form says that asks for more."""

from factory import budgets, datasets
from factory.db import Database

from .conftest import Html, Visitor
from .test_forms import filled, jobs_of


def test_a_budget_is_set_shown_and_taken_away(
    visitor: Visitor, db: Database, dataset: str, model: str
) -> None:
    form = {"whose": f"dataset:{dataset}", "amount": "12", "unit": "samples"}
    assert visitor.post("/settings/budgets", form).status_code == 303
    sent = filled(visitor, dataset=dataset, model=model, count="10")
    assert visitor.post("/jobs/new", sent).status_code == 303
    text = Html(visitor.get("/settings").text).text
    assert f"dataset {dataset}" in text
    assert "10; 2 left" in text
    refused = visitor.post("/jobs/new", filled(visitor, dataset=dataset, model=model, count="3"))
    assert refused.status_code == 422
    assert "Ask for at most 2" in refused.text
    assert 'value="3"' in refused.text
    assert len(jobs_of(db, dataset)) == 1
    with db.transaction() as session:
        key = datasets.get(session, dataset).id
        (mine,) = [u for u in budgets.uses(session) if u.budget.dataset_id == key]
    gone = visitor.post(f"/settings/budgets/{mine.budget.id}/remove")
    assert gone.status_code == 303
    assert f"dataset {dataset}</th>" not in visitor.get("/settings").text


def test_an_experiment_over_the_budget_is_refused_in_words(
    visitor: Visitor, db: Database, dataset: str, model: str
) -> None:
    form = {"whose": f"dataset:{dataset}", "amount": "1", "unit": "tokens"}
    visitor.post("/settings/budgets", form)
    sent = {"dataset": dataset, "model": model, "points": "4", "count": "4", "once": "a"}
    given = sent | {"objective": "harmonic", "method": "random"}
    refused = visitor.post("/experiments", given)
    assert refused.status_code == 422
    assert "1 tokens a day" in refused.text
    assert jobs_of(db, dataset) == []


def test_a_budget_is_set_from_our_own_pages_only(visitor: Visitor, dataset: str) -> None:
    form = {"whose": f"dataset:{dataset}", "amount": "12", "unit": "samples"}
    headers = {"Origin": "http://elsewhere.example"}
    assert visitor.client.post("/settings/budgets", data=form, headers=headers).status_code == 403


def test_wrong_amounts_are_refused(visitor: Visitor, dataset: str) -> None:
    for amount in ("", "-1", "many"):
        form = {"whose": f"dataset:{dataset}", "amount": amount, "unit": "samples"}
        assert visitor.post("/settings/budgets", form).status_code == 422
