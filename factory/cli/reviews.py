"""`factory review`: sync, stats, push."""

import click

from factory.cli.command import Group
from factory.cli.connect import connected
from factory.cli.output import answer, details


@click.group("review", cls=Group)
def group() -> None:
    """What people say of the samples in Label Studio."""


@group.command("push", examples=["factory review push JOB"])
@click.argument("job_id", metavar="JOB")
def push(job_id: str) -> None:
    """Send a job's samples to review, each once."""
    with connected() as client:
        done = client.push(job_id)
    answer(done, f"{done['owed']} samples are on their way to Label Studio.")


@group.command("sync", examples=["factory review sync hypotheses"])
@click.argument("dataset")
def sync(dataset: str) -> None:
    """Have a dataset's reviews compared with Label Studio now."""
    with connected() as client:
        done = client.sync_reviews(dataset)
    answer(done, f"The reviews of {dataset} are being compared with Label Studio.")


@group.command("stats", examples=["factory review stats hypotheses"])
@click.argument("dataset")
def stats(dataset: str) -> None:
    """Count a dataset's pushes, verdicts and reasons, and show its levers' last fits."""
    with connected() as client:
        found = client.review_stats(dataset)
    answer(found, details(found))
