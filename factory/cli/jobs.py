"""`factory job`: preview, submit, list, show, watch, cancel, pause, resume."""

from collections.abc import Callable
from typing import Any

import click

from factory.cli.command import Group
from factory.cli.connect import connected
from factory.cli.output import answer, details, note, table
from factory.cli.specs import gathered, spec_options
from factory.cli.watch import follow, summary
from factory.client import ENDED, Client
from factory.connection import Json

STATES = ("pending", "running", "paused", *ENDED)


@click.group("job", cls=Group)
def group() -> None:
    """Work that was submitted: making samples, training experts, measuring samples."""


@group.command(
    "preview",
    examples=[
        "factory job preview job.yaml",
        "factory job preview --dataset hypotheses --model demo --count 4 --eta 0.5",
    ],
)
@spec_options
def preview(file: str | None, assignments: tuple[str, ...], **options: Any) -> None:
    """Make a few samples, guided and unguided with the same seeds. Nothing is stored.

    The job comes from FILE (YAML, '-' for standard input), from options, or both: options win.
    """
    spec = gathered(file, options, assignments)
    note("Waiting for a worker …")
    with connected() as client:
        made = client.preview(spec)
    answer(made, table(("seed", "guided", "unguided"), _pairs(made)))


@group.command(
    "submit",
    examples=[
        "factory job submit job.yaml --watch",
        "factory job submit --dataset hypotheses --model demo --count 200 --eta 0.5 --watch",
        "factory job submit job.yaml --seed 7 --set 'negatives.sources={rejected: 1}'",
    ],
)
@spec_options
@click.option("--idempotency-key", help="The same key and job again give the same job.")
@click.option("--watch", "watched", is_flag=True, help="Follow the job to its end.")
def submit(
    file: str | None,
    assignments: tuple[str, ...],
    idempotency_key: str | None,
    watched: bool,
    **options: Any,
) -> int:
    """Submit a job.

    It comes from FILE (YAML, '-' for standard input), from options, or both: options win.
    """
    spec = gathered(file, options, assignments)
    with connected() as client:
        job = client.submit(spec, idempotency_key=idempotency_key)
        if watched:
            return _follow(client, job["id"])
    answer(job, f"Job {job['id']} is {job['state']}. Next: factory job watch {job['id']}")
    return 0


@group.command("list", examples=["factory job list", "factory job list --state running"])
@click.option("--dataset", help="Only jobs of this dataset.")
@click.option("--state", type=click.Choice(STATES), help="Only jobs in this state.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True)
def list_(dataset: str | None, state: str | None, limit: int) -> None:
    """List jobs, newest first."""
    with connected() as client:
        items = list(client.jobs(dataset=dataset, state=state, limit=limit))
    columns = ("id", "kind", "dataset", "model", "state", "done", "planned", "created")
    answer({"items": items}, table(columns, [_row(job) for job in items]))


@group.command("show", examples=["factory job show ID"])
@click.argument("job_id", metavar="ID")
def show(job_id: str) -> None:
    """Show a job: its spec and how far it is."""
    with connected() as client:
        job = client.job(job_id)
    answer(job, details(job))


@group.command("watch", examples=["factory job watch ID"])
@click.argument("job_id", metavar="ID")
def watch(job_id: str) -> int:
    """Follow a job to its end: samples, tokens a second, time left.

    Exits with 0 when it succeeded, else with 1.
    """
    with connected() as client:
        return _follow(client, job_id)


@group.command("cancel", examples=["factory job cancel ID"])
@click.argument("job_id", metavar="ID")
def cancel(job_id: str) -> None:
    """End a job. What it has made so far is kept."""
    _change(Client.cancel, job_id)


@group.command("pause", examples=["factory job pause ID"])
@click.argument("job_id", metavar="ID")
def pause(job_id: str) -> None:
    """Hold a job; its worker does other work."""
    _change(Client.pause, job_id)


@group.command("resume", examples=["factory job resume ID"])
@click.argument("job_id", metavar="ID")
def resume(job_id: str) -> None:
    """Go on with a paused job."""
    _change(Client.resume, job_id)


def _change(change: Callable[[Client, str], Json], job_id: str) -> None:
    with connected() as client:
        job = change(client, job_id)
    answer(job, summary(job))


def _follow(client: Client, job_id: str) -> int:
    try:
        return follow(client, job_id)
    except KeyboardInterrupt:
        note(f"The job goes on. Back to it: factory job watch {job_id}")
        raise


def _row(job: Json) -> tuple[Any, ...]:
    progress = job["progress"]
    where = (job["id"], job["kind"], job["dataset"], job["model"], job["state"])
    return (*where, progress["done"], progress["planned"], job["created_at"])


def _pairs(made: Json) -> list[tuple[Any, ...]]:
    both = zip(made["guided"], made["unguided"], strict=True)
    return [(a["seed"], a["text"], b["text"]) for a, b in both]
