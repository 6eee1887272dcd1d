"""`factory model`: add, list, train, calibrate."""

from typing import Any, get_args

import click

from factory.cli.command import Group
from factory.cli.connect import connected
from factory.cli.output import answer, details, table
from factory.cli.specs import checked
from factory.cli.watch import follow
from factory.spec import COUNT, POINTS, Objective


@click.group("model", cls=Group)
def group() -> None:
    """Model pairs: a base, and the expert that was made from it."""


@group.command(
    "add",
    examples=[
        "factory model add mine --base /models/base --expert /models/adapter",
        "factory model add hub --base org/base --expert org/expert --revision $COMMIT",
    ],
)
@click.argument("name")
@click.option("--base", required=True, help="Folder of the base, or an allowed hub id.")
@click.option("--expert", required=True, help="Folder of the expert: full weights or LoRA adapter.")
@click.option("--revision", help="Commit of a hub id.")
def add(name: str, base: str, expert: str, revision: str | None) -> None:
    """Register a model pair."""
    with connected() as client:
        made = client.add_model(name, base, expert, revision)
    answer(made, f"Model pair {made['name']} is there.")


@group.command("list", examples=["factory model list"])
def list_() -> None:
    """List every model pair."""
    with connected() as client:
        items = list(client.models())
    rows = [(each["name"], each["base"], each["expert"], each["created_at"]) for each in items]
    answer({"items": items}, table(("name", "base", "expert", "created"), rows))


@group.command(
    "train",
    examples=[
        "factory model train mine --dataset hypotheses --base /models/base --watch",
        "factory model train demo --dataset hypotheses --base demo --watch",
    ],
)
@click.argument("name")
@click.option("--dataset", required=True, help="Its real and corrected samples are learned from.")
@click.option("--base", required=True, help="Folder of the base, or 'demo' for the tiny one.")
@click.option("--method", type=click.Choice(("lora", "full")), help="Adapter or all weights.")
@click.option("--steps", type=int)
@click.option("--learning-rate", type=float)
@click.option("--rank", type=int, help="Rank of the LoRA adapter.")
@click.option("--seed", type=int)
@click.option("--watch", "watched", is_flag=True, help="Follow the job to its end.")
def train(name: str, watched: bool, **given: Any) -> int:
    """Fine-tune an expert on a dataset and register the pair under NAME."""
    chosen = {field: value for field, value in given.items() if value is not None}
    spec = checked({"kind": "train", "model": name, **chosen})
    with connected() as client:
        job = client.submit(spec)
        if watched:
            return follow(client, job["id"])
    answer(job, details(job))
    return 0


@group.command(
    "calibrate",
    examples=[
        "factory model calibrate demo --dataset hypotheses --watch",
        "factory model calibrate demo --dataset hypotheses --points 24 --use --watch",
    ],
)
@click.argument("name")
@click.option("--dataset", required=True, help="Its real samples say what is plausible.")
@click.option("--points", type=int, help=f"Settings to try; default {POINTS}.")
@click.option("--count", type=int, help=f"Samples of each in the first round; default {COUNT}.")
@click.option("--objective", type=click.Choice(get_args(Objective)), help="What is best.")
@click.option("--seed", type=int)
@click.option("--use", is_flag=True, help="Make the best settings the dataset's defaults.")
@click.option("--watch", "watched", is_flag=True, help="Follow the job and show what it found.")
def calibrate(name: str, use: bool, watched: bool, **given: Any) -> int:
    """Find the settings that suit a model pair and a dataset, by successive halving.

    Says too whether the expert is underfit, well fit or memorising, and whether η can steer it.
    For a space of your own submit a sweep: factory job submit FILE.
    """
    chosen = {field: value for field, value in given.items() if value is not None}
    spec = checked({"kind": "sweep", "model": name, "use": use, **chosen})
    with connected() as client:
        job = client.submit(spec)
        if watched:
            return follow(client, job["id"])
    answer(job, f"Job {job['id']} is {job['state']}. Next: factory job watch {job['id']}")
    return 0
