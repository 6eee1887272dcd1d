"""A job followed to its end."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console

from factory import live
from factory.cli.command import FAILED, wanted
from factory.cli.output import answer, stderr
from factory.client import Client
from factory.connection import Json


def follow(client: Client, job_id: str) -> int:
    """Show a job until it has ended, then answer with it; 0 when it succeeded, else 1."""
    console = Console(quiet=True) if wanted().json else stderr()
    with live.shown(console) as shown, shown.phase("pending") as phase:

        def titled() -> Iterator[Json]:
            for job in client.watch(job_id):
                phase.rename(job["state"])
                yield job

        job = live.follow(phase, titled())
    answer(job, summary(job))
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
