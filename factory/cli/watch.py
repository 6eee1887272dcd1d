"""A job followed to its end."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, RenderableType

from factory import live
from factory.cli import sweeps
from factory.cli.command import FAILED, wanted
from factory.cli.output import answer, stderr, table
from factory.client import Client
from factory.connection import Json
from factory.metrics import METRICS


def follow(client: Client, job_id: str) -> int:
    """Show a job until it has ended, then answer with it; 0 when it succeeded, else 1."""
    console = Console(quiet=True) if wanted().json else stderr()
    with live.shown(console) as shown, shown.phase("pending") as phase:

        def titled() -> Iterator[Json]:
            for job in client.watch(job_id):
                phase.rename(job["state"])
                yield job

        job = live.follow(phase, titled())
    told = {"evaluate": _measures, "sweep": sweeps.found}.get(job["kind"])
    found = told(job["result"]) if told and job["result"] else []
    answer(job, *found, summary(job))
    return 0 if job["state"] == "succeeded" else FAILED


def summary(job: Mapping[str, Any]) -> str:
    """How far a job is, or how it ended, in one line."""
    progress = job["progress"]
    parts = [f"{progress['done']} of {progress['planned']} {live.unit(job)}"]
    parts += [f"{progress[name]} {name}" for name in ("failed", "filtered") if progress[name]]
    reason = f": {job['error']}" if job.get("error") else ""
    note = (job.get("result") or {}).get("note")
    said = f"Job {job['id']} {job['state']}, {', '.join(parts)}{reason}"
    return f"{said}\n{note}" if note else said


def _measures(evaluation: Mapping[str, Any]) -> list[RenderableType]:
    """What an evaluation found, beside what real samples score."""
    natural = {measure["name"]: measure for measure in evaluation["reference"]}
    rows = [
        (
            METRICS[measure["name"]].title,
            measure["value"],
            _interval(measure),
            (natural.get(measure["name"]) or {}).get("value"),
            measure["n"],
            measure["note"],
        )
        for measure in evaluation["measures"]
    ]
    return [table(("measure", "samples", "95 %", "real", "n", "note"), rows)]


def _interval(measure: Mapping[str, Any]) -> str | None:
    return None if measure["low"] is None else f"{measure['low']:.3g} to {measure['high']:.3g}"
