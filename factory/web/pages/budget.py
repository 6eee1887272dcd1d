"""Setting budgets, and what stands in their form. The page is that of the settings."""

import uuid
from dataclasses import dataclass

from flask import flash, redirect, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from factory import budgets, datasets, tokens
from factory.tables import Dataset
from factory.web.api.budgets import NewBudget, put
from factory.web.inputs import validated
from factory.web.pages.frame import pages
from factory.web.state import current

DATASETS = 200  # newest that can be given a budget on the page


@dataclass(frozen=True)
class Budgets:
    """What the section of budgets shows. `whose`: the choices of its form."""

    uses: list[budgets.Use]
    today: dict[str, int]
    whose: list[tuple[str, str]]


@pages.post("/settings/budgets")
def put_budget() -> ResponseReturnValue:
    """Set a budget, in place of the one that there is."""
    kind, _, name = request.form.get("whose", "").partition(":")
    given = {"unit": request.form.get("unit"), "amount": request.form.get("amount", "").strip()}
    new = validated(NewBudget, given | ({kind: name} if kind in ("dataset", "token") else {}))
    with current().db.transaction() as session:
        put(session, new)
    flash(f"The budget is {new.amount:,} {new.unit} a day.", "good")
    return _back()


@pages.post("/settings/budgets/<uuid:budget_id>/remove")
def remove_budget(budget_id: uuid.UUID) -> ResponseReturnValue:
    """Take a budget away."""
    with current().db.transaction() as session:
        budgets.remove(session, budget_id)
    flash("The budget is taken away.", "good")
    return _back()


def shown(session: Session) -> Budgets:
    """Every budget with its use today."""
    named = [(f"dataset:{row.name}", f"dataset {row.name}") for row in _datasets(session)]
    live = [token for token in tokens.list_all(session) if token.revoked_at is None]
    keys = [(f"token:{token.id}", f"token {token.name}") for token in live]
    whose = [("", "the whole factory"), *named, *keys]
    return Budgets(list(budgets.uses(session)), budgets.today(session), whose)


def _datasets(session: Session) -> list[Dataset]:
    return list(datasets.list_all(session, limit=DATASETS))


def _back() -> ResponseReturnValue:
    return redirect(url_for("pages.settings") + "#budgets", 303)
