"""`factory budget`: list, set, remove."""

from collections.abc import Mapping
from typing import Any, Literal

import click

from factory.cli.command import Group
from factory.cli.connect import connected
from factory.cli.output import answer, table


@click.group("budget", cls=Group)
def group() -> None:
    """What jobs may ask for in a day (UTC)."""


@group.command("list", examples=["factory budget list"])
def list_() -> None:
    """List every budget, with what is spent of it today."""
    with connected() as client:
        items = list(client.budgets())
    columns = ("id", "of", "unit", "amount", "spent", "left")
    rows = [[_of(item) if c == "of" else item[c] for c in columns] for item in items]
    answer({"items": items}, table(columns, rows))


@group.command(
    "set",
    examples=[
        "factory budget set 500 --dataset hypotheses",
        "factory budget set 9000000 --tokens",
    ],
)
@click.argument("amount", type=click.IntRange(min=0))
@click.option("--dataset", help="Of this dataset.  [default: of the whole factory]")
@click.option("--token", metavar="ID", help="Of this API token.")
@click.option("--tokens", is_flag=True, help="Count tokens that jobs make at most, not samples.")
def set_(amount: int, dataset: str | None, token: str | None, tokens: bool) -> None:
    """Set a budget, in place of the one that there is."""
    unit: Literal["samples", "tokens"] = "tokens" if tokens else "samples"
    with connected() as client:
        made = client.set_budget(amount, unit, dataset=dataset, token=token)
    answer(made, f"{_of(made)}: {amount:,} {unit} a day, {made['left']:,} left today.")


@group.command("remove", examples=["factory budget remove ID"])
@click.argument("budget_id", metavar="ID")
def remove(budget_id: str) -> None:
    """Take a budget away."""
    with connected() as client:
        client.remove_budget(budget_id)
    answer({"id": budget_id}, "The budget is removed.")


def _of(budget: Mapping[str, Any]) -> str:
    if budget["dataset"] is not None:
        return f"dataset {budget['dataset']}"
    return f"token {budget['token']}" if budget["token"] is not None else "the whole factory"
