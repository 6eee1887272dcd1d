"""`factory sample`: list, show, replay, explain, neighbors."""

from typing import Any

import click

from factory.cli.command import FAILED, Group
from factory.cli.connect import connected
from factory.cli.datasets import ORIGINS, STATES
from factory.cli.output import answer, details, note, short, table
from factory.connection import Json

LEARNED = ("verdict_head", "adapters")


@click.group("sample", cls=Group)
def group() -> None:
    """Single samples: how each was made, and making it again."""


@group.command(
    "list",
    examples=[
        "factory sample list hypotheses --origin synthetic --state rejected",
        'factory sample list hypotheses --query "ocean -drought"',
    ],
)
@click.argument("dataset")
@click.option("--origin", type=click.Choice(ORIGINS), help="Only samples of this origin.")
@click.option(
    "--state", "states", multiple=True, type=click.Choice(STATES), help="Repeat for more."
)
@click.option("--job", metavar="ID", help="Only samples of this job.")
@click.option("--query", help="Only texts with these words.")
@click.option(
    "--near-copies/--no-near-copies",
    "near_copy",
    default=None,
    help="Only those that repeat another sample, or only the others.",
)
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
def list_(
    dataset: str,
    origin: str | None,
    states: tuple[str, ...],
    job: str | None,
    query: str | None,
    near_copy: bool | None,
    limit: int,
) -> None:
    """List a dataset's samples, newest first."""
    with connected() as client:
        found = client.samples(
            dataset,
            origin=origin,
            states=states,
            job=job,
            query=query,
            near_copy=near_copy,
            limit=limit,
        )
        items = list(found)
    columns = ("id", "origin", "state", "text")
    shown = [(each["id"], each["origin"], each["state"], short(each["text"])) for each in items]
    answer({"items": items}, table(columns, shown))


@group.command("show", examples=["factory sample show ID", "factory sample show ID --json"])
@click.argument("sample_id", metavar="ID")
def show(sample_id: str) -> None:
    """Show a sample and, if it was generated, all that made it."""
    with connected() as client:
        found = client.sample(sample_id)
        if found["origin"] == "synthetic":
            found["provenance"] = client.provenance(sample_id)
    answer(found, details(found))


@group.command("replay", examples=["factory sample replay ID"])
@click.argument("sample_id", metavar="ID")
def replay(sample_id: str) -> int:
    """Make a sample again from its provenance and compare.

    Exits with 0 when both are identical, else with 1 and says at which token they part, with
    the scores of both tokens.
    """
    note("Waiting for a worker …")
    with connected() as client:
        made = client.replay(sample_id)
    if made["identical"]:
        answer(made, "Identical: the same tokens came out again.", made["text"])
        return 0
    answer(made, "NOT identical.", _parting(made["first_difference"]), details(made))
    return FAILED


def _parting(difference: Json | None) -> str:
    """A sentence about where a replay differs."""
    if difference is None:
        return "No token differs."
    tokens = [_scored(difference, name) for name in ("expected", "made")]
    return f"At token {difference['position']}: {tokens[0]} was stored, {tokens[1]} was made."


def _scored(difference: Json, name: str) -> str:
    token, score = difference[name], difference.get(f"{name}_score")
    if token is None:
        return "the end"
    return repr(token) + (" (not plausible)" if score is None else f" (score {score:.3f})")


@group.command("explain", examples=["factory sample explain ID"])
@click.argument("sample_id", metavar="ID")
def explain(sample_id: str) -> None:
    """Show what moved each token.

    The streams' columns are the log-probabilities that each gave it; a dash stands for a stream
    that was not run. 'unguided' is the token that the same noise picks without guidance. A learned
    lever that acted has a column too: what it added to the score, in nats.
    """
    note("Waiting for a worker …")
    with connected() as client:
        made = client.explain(sample_id)
    tokens = made["tokens"]
    learned = [name for name in LEARNED if any(t.get(name) is not None for t in tokens)]
    streams = ("token", "expert", "base", "negative", "center")
    columns = (*streams, *learned, "score", "unguided", "survivors")
    answer(made, table(columns, [[t.get(name) for name in columns] for t in tokens]))


@group.command("neighbors", examples=["factory sample neighbors ID -k 5"])
@click.argument("sample_id", metavar="ID")
@click.option("-k", type=click.IntRange(1, 100), default=10, show_default=True)
def neighbors(sample_id: str, k: int) -> None:
    """List the samples most like this one, nearest first."""
    with connected() as client:
        items = client.neighbors(sample_id, k)
    columns = ("similarity", "id", "origin", "state", "text")
    answer({"items": items}, table(columns, [_row(each) for each in items]))


def _row(each: Json) -> tuple[Any, ...]:
    where = (each["similarity"], each["id"], each["origin"], each["state"])
    return (*where, short(each["text"]))
