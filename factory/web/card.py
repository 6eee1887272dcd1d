"""A dataset card: what the data is, how it was made, and what people said of it (Markdown)."""

from collections.abc import Sequence
from typing import Any

import yaml
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from factory import __version__, datasets, reviews, tables
from factory.tables import Job, ModelPair


def dataset_card(
    session: Session, dataset: tables.Dataset, states: Sequence[str], origin: str | None
) -> str:
    """The card of an export of these states and this origin."""
    counts = datasets.counts(session, dataset)
    stats = reviews.stats(session, dataset.id)
    header = {"pretty_name": dataset.name, "tags": ["synthetic", "steer-factory"]}
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {dataset.name}",
        dataset.description,
        f"## Prompt\n\n{_quoted(dataset.prompt)}",
        f"## What is in it\n\nSamples of state {_listed(states)}, origin {origin or 'any'}.\n"
        f"The whole dataset by origin and by state:\n\n"
        + _table(("", "samples"), [*counts["origin"].items(), *counts["state"].items()]),
        "## How it was made\n\n"
        + _table(("model pair", "rule", "γ", "η", "jobs"), _recipes(session, dataset)),
        "## What people said\n\n"
        + _table(("", "reviews"), [*stats["verdicts"].items(), *stats["reasons"].items()]),
        f"Made with STEER Factory {__version__}. Every generated sample names its job, ordinal "
        "and seed, from which the factory makes it again.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _recipes(session: Session, dataset: tables.Dataset) -> list[Sequence[Any]]:
    guidance = Job.spec["guidance"]
    columns = (ModelPair.name, *(guidance[key].astext for key in ("rule", "gamma", "eta")))
    statement = (
        select(*columns, func.count())
        .join(ModelPair, ModelPair.id == Job.model_id)
        .where(Job.dataset_id == dataset.id, Job.kind == "generate")
        .group_by(*columns)
        .order_by(*columns)
    )
    return [tuple(row) for row in session.execute(statement)]


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" for line in text.splitlines())


def _listed(states: Sequence[str]) -> str:
    return ", ".join(f"`{state}`" for state in states)
