"""Budgets: how much may be asked for in a day."""

import uuid
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from sqlalchemy.orm import Session

from factory import budgets, datasets, tokens
from factory.spec import Name, as_uuid
from factory.web import shapes
from factory.web.api.blueprint import blueprint
from factory.web.state import current

routes = blueprint("budgets")


class NewBudget(BaseModel):
    """A budget to be set: of a dataset, of a token, or, with neither, of the whole factory."""

    model_config = ConfigDict(extra="forbid")

    dataset: Name | None = None
    token: Annotated[uuid.UUID | None, BeforeValidator(as_uuid)] = None
    unit: budgets.Unit = Field("samples", description="tokens: what jobs may make at most")
    amount: int = Field(ge=0, le=budgets.HIGHEST, description="A day, in UTC")

    @model_validator(mode="after")
    def _check_whose(self) -> Self:
        if self.dataset is not None and self.token is not None:
            raise ValueError("name a dataset or a token, not both")
        return self


@routes.get("/budgets")
@routes.output(shapes.BudgetPage)
def list_budgets() -> dict[str, Any]:
    """List every budget with what is spent of it today, all on one page."""
    with current().db.transaction() as session:
        items = [_shown(use) for use in budgets.uses(session)]
        return {"items": items, "today": budgets.today(session), "next_cursor": None}


@routes.put("/budgets")
@routes.input(NewBudget, arg_name="new")
@routes.output(shapes.Budget)
@routes.doc(responses=[404])
def put_budget(new: NewBudget) -> dict[str, Any]:
    """Set a budget, in place of the one that there is."""
    with current().db.transaction() as session:
        made = put(session, new)
        return _shown(next(use for use in budgets.uses(session) if use.budget.id == made))


@routes.delete("/budgets/<uuid:budget_id>")
@routes.output({}, status_code=204)
def remove_budget(budget_id: uuid.UUID) -> tuple[str, int]:
    """Take a budget away."""
    with current().db.transaction() as session:
        budgets.remove(session, budget_id)
    return "", 204


def put(session: Session, new: NewBudget) -> uuid.UUID:
    """Store a budget. Raises NotFound when its dataset or token is not there."""
    dataset = datasets.get(session, new.dataset) if new.dataset is not None else None
    token = tokens.get(session, new.token) if new.token is not None else None
    made = budgets.put(
        session,
        new.unit,
        new.amount,
        dataset_id=dataset.id if dataset else None,
        token_id=token.id if token else None,
    )
    return made.id


def _shown(use: budgets.Use) -> dict[str, Any]:
    return {
        "id": use.budget.id,
        "dataset": use.dataset,
        "token": use.budget.token_id,
        "unit": use.budget.unit,
        "amount": use.budget.amount,
        "spent": use.spent,
        "left": use.left,
    }
