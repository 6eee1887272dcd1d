"""`factory dataset`: create, list, show, set, import, export, evaluate, defaults."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from factory.cli.command import FAILED, Group
from factory.cli.connect import connected
from factory.cli.output import answer, details, note, stderr, table
from factory.cli.specs import assigned, feedback_of
from factory.cli.watch import follow
from factory.connection import Json
from factory.errors import Invalid
from factory.metrics import NAMES
from factory.spec import MAX_SEED

FORMATS = ("jsonl", "parquet", "csv", "card")
ENDINGS = {"card": "md"}
STATES = ("generated", "filtered", "in_review", "accepted", "rejected", "fixed")
ORIGINS = ("real", "synthetic", "corrected")


@click.group("dataset", cls=Group)
def group() -> None:
    """What is being made: prompts, real samples, exports."""


@group.command(
    "create",
    examples=[
        "factory dataset create hypotheses --prompt 'Hypothesis:'",
        "factory dataset create mails --prompt 'Mail:' --label spam --label ham",
    ],
)
@click.argument("name")
@click.option("--prompt", required=True, help="What the expert continues.")
@click.option("--description", default="", help="What the dataset is for.")
@click.option("--label", "labels", multiple=True, help="A label that samples may carry; repeat.")
def create(name: str, prompt: str, description: str, labels: tuple[str, ...]) -> None:
    """Make a new, empty dataset."""
    with connected() as client:
        made = client.create_dataset(name, prompt, description, labels)
    answer(made, f"Dataset {made['name']} is there. Next: factory dataset import {name} FILE")


@group.command("list", examples=["factory dataset list", "factory dataset list --json"])
def list_() -> None:
    """List every dataset."""
    with connected() as client:
        items = list(client.datasets())
    rows = [(d["name"], *_origins(d), d["prompt"], d["created_at"]) for d in items]
    answer({"items": items}, table(("name", *ORIGINS, "prompt", "created"), rows))


@group.command("show", examples=["factory dataset show hypotheses"])
@click.argument("name")
def show(name: str) -> None:
    """Show a dataset with its counts by origin and state."""
    with connected() as client:
        found = client.dataset(name)
    answer(found, details(found))


@group.command(
    "set",
    examples=[
        "factory dataset set hypotheses --feedback feedback.yaml",
        "factory dataset set hypotheses --feedback '{levers: {gates: {}, filter: {}}}'",
    ],
)
@click.argument("name")
@click.option(
    "--feedback",
    required=True,
    metavar="FILE|YAML",
    help="The levers and their window: a file, or the YAML itself.",
)
def set_(name: str, feedback: str) -> None:
    """Say what reviews do to a dataset's later jobs.

    Levers: gates, negatives, verdict_head, adapters, filter; none: reviews change nothing.
    """
    setting = feedback_of(feedback)
    with connected() as client:
        changed = client.set_feedback(name, setting)
    used = changed["feedback"]["levers"]
    names = ", ".join(lever for lever, settings in used.items() if settings is not None)
    answer(changed, f"Later jobs of {name} use: {names or 'no lever'}")


@group.command(
    "import",
    examples=[
        "factory dataset import hypotheses real.ndjson",
        'echo \'{"text": "We propose that …"}\' | factory dataset import hypotheses -',
    ],
)
@click.argument("name")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
def import_(name: str, file: str) -> int:
    """Import real samples from FILE, a JSON object a line.

    A line is {"text": …, "label"?: …, "meta"?: {…}}; '-' reads standard input. Every valid line
    goes in; the others are named, and the command exits with 1.
    """
    with connected() as client, _counting() as count:
        done = client.import_samples(name, _source(file), count)
    summary = f"{done['imported']} imported, {done['duplicates']} duplicates"
    wrong = [(each["line"], each["error"]) for each in done["rejected"]]
    if not wrong:
        answer(done, summary)
        return 0
    answer(done, f"{summary}, {len(wrong)} rejected:", table(("line", "error"), wrong))
    return FAILED


@group.command(
    "export",
    examples=[
        "factory dataset export hypotheses -o hypotheses.jsonl",
        "factory dataset export hypotheses -o all.parquet --state accepted --state rejected",
    ],
)
@click.argument("name")
@click.option(
    "-o", "--output", "path", type=click.Path(dir_okay=False, path_type=Path), help="File to write."
)
@click.option("--format", "format_", type=click.Choice(FORMATS), help="Default: the file's ending.")
@click.option(
    "--state", "states", multiple=True, type=click.Choice(STATES), help="Repeat for more."
)
@click.option("--origin", type=click.Choice(ORIGINS), help="Only samples of this origin.")
def export(
    name: str,
    path: Path | None,
    format_: str | None,
    states: tuple[str, ...],
    origin: str | None,
) -> None:
    """Write a dataset's samples with their provenance into a file.

    Accepted samples unless --state says otherwise; NAME.jsonl unless -o does.
    """
    chosen = format_ or _format_of(path)
    target = path or Path(f"{name}.{ENDINGS.get(chosen, chosen)}")
    note(f"Writing {target} …")
    try:
        with connected() as client:
            size = client.export(
                name, target, format=chosen, states=states or ("accepted",), origin=origin
            )
    except OSError as error:
        raise Invalid(f"{target} cannot be written: {error.strerror}.") from error
    result = {"path": str(target), "format": chosen, "bytes": size}
    answer(result, f"{target}: {size:,} bytes")


@group.command(
    "evaluate",
    examples=[
        "factory dataset evaluate hypotheses --watch",
        "factory dataset evaluate hypotheses --job ID --metric distinct_3 --metric mauve --watch",
    ],
)
@click.argument("name")
@click.option("--job", help="Only samples of this generate job.")
@click.option("--origin", type=click.Choice(("synthetic", "corrected")), help="Of this origin.")
@click.option(
    "--state", "states", multiple=True, type=click.Choice(STATES), help="Repeat for more."
)
@click.option(
    "--metric", "metrics", multiple=True, type=click.Choice(NAMES), help="Repeat; default: all."
)
@click.option("--limit", type=click.IntRange(1, 2000), help="Samples to measure, at most.")
@click.option("--seed", type=click.IntRange(0, MAX_SEED), help="Chooses samples and resamples.")
@click.option("--watch", "watched", is_flag=True, help="Follow the job and show what it found.")
def evaluate(name: str, watched: bool, **given: Any) -> int:
    """Measure samples beside the dataset's real ones, each measure with its 95 % interval."""
    spec = {field: value for field, value in given.items() if value not in (None, ())}
    with connected() as client:
        job = client.evaluate(name, **spec)
        if watched:
            return follow(client, job["id"])
    answer(job, f"Job {job['id']} is {job['state']}. Next: factory job watch {job['id']}")
    return 0


@group.command(
    "defaults",
    examples=[
        "factory dataset defaults hypotheses",
        "factory dataset defaults hypotheses --from ID",
        "factory dataset defaults hypotheses --set guidance.eta=0.25 --set guidance.gamma=-0.5",
        "factory dataset defaults hypotheses --clear",
    ],
)
@click.argument("name")
@click.option("--from", "job", metavar="ID", help="Take the settings that a sweep recommends.")
@click.option("--position", type=click.IntRange(0), help="With --from: others that it tried.")
@click.option("--set", "assignments", multiple=True, metavar="FIELD=VALUE", help="One field.")
@click.option("--clear", is_flag=True, help="Go back to the factory's own.")
def defaults(
    name: str, job: str | None, position: int | None, assignments: tuple[str, ...], clear: bool
) -> None:
    """Show or set what the dataset's generate jobs take where they leave something out."""
    with connected() as client:
        found = client.dataset(name)
        if job is not None:
            if client.job(job)["dataset"] != name:
                raise Invalid(f"Job {job} is of another dataset.")
            found = client.use(job, position)
        if clear or assignments:
            kept = {} if clear else dict(found["defaults"])
            found = client.set_defaults(name, assigned(kept, assignments))
    said = found["defaults"]
    answer(said, details(said) if said else f"{name} has none: its jobs take the factory's own.")


def _origins(dataset: Json) -> list[int]:
    return [dataset["counts"]["origin"].get(origin, 0) for origin in ORIGINS]


def _source(file: str) -> Path:
    return Path("/dev/stdin") if file == "-" else Path(file)


@contextmanager
def _counting() -> Iterator[Callable[[int], None]]:
    """Shows how many lines were sent."""
    with stderr().status("Sending …") as status:
        yield lambda sent: status.update(f"{sent:,} lines sent …")


def _format_of(path: Path | None) -> str:
    ending = path.suffix.removeprefix(".") if path else ""
    by_ending = {ENDINGS.get(format_, format_): format_ for format_ in FORMATS}
    return by_ending.get(ending, "jsonl")
