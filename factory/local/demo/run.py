"""`factory demo`: the whole loop once, over HTTP like any other user of the factory.

    real samples → tiny pair → round-1, reviewed
                             → control and round-2, same seeds, with and without feedback
                             → both reviewed → report

Every number that decides what comes out stands here, and was fixed before any run.
"""

import json
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
from rich.console import Console

from factory import dispatch, live
from factory.client import Client
from factory.connection import Json
from factory.errors import FactoryError, StackError
from factory.live import Live
from factory.local import home as homes
from factory.local.demo import report
from factory.local.demo.corpus import real_samples
from factory.local.demo.grammar import PROMPT
from factory.local.stack import Addresses, Stack
from factory.local.supervisor import Event
from factory.local.up import TITLES, stopped_by_signals
from factory.settings import Settings

DATASET = "hypotheses"
MODEL = "demo"
REAL_COUNT, REAL_SEED = 300, 1
ETA = 0.5
SIMULATE_REVIEWS = "workers.cpu.simulate_reviews"  # argument: dataset id
REVIEWED = ("accepted", "rejected", "fixed")
PUSHED = ("in_review", *REVIEWED)
PATIENCE = 240.0  # seconds without a new review before the demo gives up
NUDGE = 60.0  # seconds without a new review before the reviewer is woken again


@dataclass(frozen=True)
class Round:
    """One round of the demo. The audit's share is made without feedback."""

    name: str
    count: int
    seed: int
    eta: float
    audit: float
    feedback: bool


FIRST = Round("round-1", count=150, seed=11, eta=0.0, audit=0.0, feedback=False)
CONTROL = Round("control", count=380, seed=12, eta=0.0, audit=0.2, feedback=False)
SECOND = Round("round-2", count=380, seed=12, eta=ETA, audit=0.2, feedback=True)


@dataclass(frozen=True)
class Made:
    """A round's job and its samples, as they are at the end."""

    round: Round
    planned: int
    samples: Sequence[Json]

    @property
    def guided(self) -> list[str]:
        """The texts that were not set aside for the audit, in order."""
        return [sample["text"] for sample in self.samples if not sample["audit"]]

    @property
    def audit(self) -> list[str]:
        """The texts of the audit, in order."""
        return [sample["text"] for sample in self.samples if sample["audit"]]

    @property
    def counts(self) -> report.Counts:
        """What became of the samples."""
        states = [sample["state"] for sample in self.samples]
        return report.Counts(
            planned=self.planned,
            stored=len(states),
            pushed=sum(state in PUSHED for state in states),
            reviewed=sum(state in REVIEWED for state in states),
        )


def run_demo(settings: Settings, *, table: bool = True) -> None:
    """Run the demo on the stack that runs here, or on one of its own, stopped at the end.

    Progress goes to stderr; stdout gets a table and, as its last line, one JSON object.
    Raises FactoryError when the loop does not come round.
    """
    started = time.monotonic()
    console = Console(stderr=True, highlight=False)
    done: Json = {}
    with stopped_by_signals(), live.shown(console) as shown, _stack(settings, shown) as stack:
        addresses, review_is_ready = stack
        made, real = Demo(settings, addresses, shown).run(review_is_ready)
        done = {
            "demo": {
                "seconds": round(time.monotonic() - started, 1),
                "install_seconds": settings.install_seconds,
                "rounds": [_result(each, real) for each in made],
            }
        }
    if not done:
        raise KeyboardInterrupt
    page = homes.Home(settings.home).demo / "report.html"
    report.write_page(page, done["demo"], {each.round.name: each.guided for each in made})
    console.print(f"The report with charts: {page}", soft_wrap=True)
    if table:
        Console(width=None if sys.stdout.isatty() else 120).print(
            report.terminal_table(done["demo"])
        )
    sys.stdout.write(json.dumps(done) + "\n")


class Demo:
    """One run of the demo on one running stack."""

    def __init__(self, settings: Settings, addresses: Addresses, shown: Live) -> None:
        self._client = Client(addresses.url, addresses.token)
        self._broker = dispatch.celery_app(
            settings.model_copy(update={"broker_url": addresses.broker_url})
        )
        self._logs = homes.Home(settings.home).logs
        self._shown = shown

    def run(self, review_is_ready: Callable[[], None]) -> tuple[list[Made], list[str]]:
        """Every round's samples, and the real ones."""
        real = real_samples(REAL_COUNT, REAL_SEED)
        dataset = self._dataset(real)
        self._train(dataset["name"])
        first = self._generate(FIRST, dataset)
        review_is_ready()
        self._review(dataset, first)
        control = self._generate(CONTROL, dataset)
        second = self._generate(SECOND, dataset)
        self._review(dataset, control, second)
        rounds = zip((FIRST, CONTROL, SECOND), (first, control, second), strict=True)
        made = [self._made(each, dataset["name"], job) for each, job in rounds]
        check(made)
        return made, real

    def _dataset(self, real: Sequence[str]) -> Json:
        """A new dataset with its real samples; each run has its own."""
        taken = {dataset["name"] for dataset in self._client.datasets()}
        names = (DATASET, *(f"{DATASET}-{number}" for number in range(2, len(taken) + 3)))
        name = next(name for name in names if name not in taken)
        with self._shown.phase(f"Import {len(real)} real samples into “{name}”"):
            dataset = self._client.create_dataset(
                name, PROMPT, "Hypotheses in the demo's own small language, made by a grammar"
            )
            self._client.import_samples(name, real)
        return dataset

    def _train(self, dataset: str) -> None:
        """Train the tiny pair, unless it is there from an earlier run."""
        if any(model["name"] == MODEL for model in self._client.models()):
            self._shown.say("The tiny model pair is there already")
            return
        spec = {"kind": "train", "dataset": dataset, "model": MODEL, "base": MODEL}
        with self._shown.phase("Train a tiny base and its expert") as phase:
            self._followed(phase, self._client.submit(spec))

    def _generate(self, each: Round, dataset: Json) -> Json:
        title = f"Generate {each.name} ({'with' if each.feedback else 'without'} feedback)"
        with self._shown.phase(title) as phase:
            return self._followed(phase, self._client.submit(spec(each, dataset["name"])))

    def _followed(self, phase: live.Phase | live.LinePhase, job: Json) -> Json:
        ended = live.follow(phase, self._client.watch(job["id"]))
        if ended["state"] != "succeeded":
            raise FactoryError(
                f"The demo's {ended['kind']} job {ended['id']} ended as {ended['state']}: "
                f"{ended['error']}. The log of the worker: {self._logs / 'gpu-worker.log'}"
            )
        return dict(ended)

    def _review(self, dataset: Json, *jobs: Json) -> None:
        """Push the jobs' samples, and wait until a verdict on each has come back."""
        before = self._stats(dataset)
        owed = sum(self._client.push(job["id"])["owed"] for job in jobs)
        pushed, reviewed = before["pushed"] + owed, before["reviewed"] + owed
        with self._shown.phase("Push to Label Studio") as phase:
            self._await(phase, dataset, "pushed", pushed, owed)
        self._wake_reviewer(dataset)
        with self._shown.phase("Review by a simulated reviewer, verdicts back by webhook") as phase:
            self._await(phase, dataset, "reviewed", reviewed, owed, self._wake_reviewer)

    def _await(
        self,
        phase: live.Phase | live.LinePhase,
        dataset: Json,
        what: str,
        wanted: int,
        owed: int,
        nudge: Callable[[Json], None] = lambda _: None,
    ) -> None:
        """Wait until the dataset's count has come to what is wanted.

        Raises FactoryError when it does not grow for long.
        """
        count, grew, nudged = -1, time.monotonic(), time.monotonic()
        while count < wanted:
            now = self._stats(dataset)[what]
            if now > count:
                count, grew = now, time.monotonic()
            phase.update(owed - (wanted - count), owed, "samples")
            if time.monotonic() - grew > PATIENCE:
                raise FactoryError(
                    f"Only {count} of {wanted} samples were {what}, and none more for "
                    f"{PATIENCE:.0f} s. The log of the worker: {self._logs / 'cpu-worker.log'}"
                )
            if time.monotonic() - max(grew, nudged) > NUDGE:
                nudge(dataset)
                nudged = time.monotonic()
            time.sleep(0.5)

    def _stats(self, dataset: Json) -> Json:
        return self._client.review_stats(dataset["name"])

    def _wake_reviewer(self, dataset: Json) -> None:
        dispatch.send(self._broker, SIMULATE_REVIEWS, uuid.UUID(dataset["id"]))

    def _made(self, each: Round, dataset: str, job: Json) -> Made:
        samples = sorted(
            self._client.samples(dataset, job=job["id"]), key=lambda sample: sample["ordinal"]
        )
        return Made(each, job["progress"]["planned"], samples)


def spec(each: Round, dataset: str) -> Json:
    """The job of a round. Nothing is pushed before every round of the comparison is made."""
    return {
        "kind": "generate",
        "dataset": dataset,
        "model": MODEL,
        "count": each.count,
        "seed": each.seed,
        "guidance": {"rule": "steer", "gamma": 0.0, "eta": each.eta, "nucleus": 0.95},
        "negatives": {
            "count": 3,
            "strategy": "random",
            "sources": {"rejected": 1},
            "center": False,
        },
        "audit": each.audit,
        "review": {"push": False},
    }


def _result(made: Made, real: Sequence[str]) -> Json:
    return report.round_result(
        made.round.name,
        feedback=made.round.feedback,
        counts=made.counts,
        guided=made.guided,
        audit=made.audit,
        real=real,
    )


def check(rounds: Sequence[Made]) -> None:
    """Raise FactoryError unless every planned sample was stored, pushed and reviewed."""
    for made in rounds:
        counts = made.counts
        if not counts.planned == counts.stored == counts.pushed == counts.reviewed:
            raise FactoryError(f"The loop did not come round in {made.round.name}: {counts}.")


@contextmanager
def _stack(settings: Settings, shown: Live) -> Iterator[tuple[Addresses, Callable[[], None]]]:
    """The running stack's addresses, or those of one that is started for the block.

    With it comes a function that waits until Label Studio is ready.
    """
    running = _running(settings)
    if running is not None:
        shown.say(f"Using the factory that runs at {running.url}")
        yield running, lambda: None
        return
    stack = Stack(settings, _teller(shown))
    try:
        with shown.phase("Start the factory"):
            addresses = stack.begin()

        def review_is_ready() -> None:
            with shown.phase("Wait for Label Studio"):
                stack.await_label_studio()

        yield addresses, review_is_ready
    finally:
        with shown.phase("Stop the factory"):
            stack.stop()


def _running(settings: Settings) -> Addresses | None:
    """The addresses of the stack that runs in this home, if one answers."""
    known = homes.read_json(homes.Home(settings.home).stack).get("addresses")
    if not isinstance(known, dict) or not known:
        return None
    addresses = Addresses(**known)
    try:
        httpx.get(f"{addresses.url}/healthz", timeout=5, trust_env=False).raise_for_status()
    except httpx.HTTPError:
        return None
    if not addresses.label_studio_url:
        raise StackError(
            "The factory that runs here has no Label Studio. Stop it, and start it with "
            "`factory up` or leave that to `factory demo`."
        )
    return addresses


def _teller(shown: Live) -> Callable[[Event], None]:
    """Tells what happens to the parts of the stack, above the bars."""

    def tell(event: Event) -> None:
        what = event.detail if event.state == "note" else event.state
        detail = f" ({event.detail})" if event.detail and event.state != "note" else ""
        took = f" {event.seconds:.1f} s" if event.seconds is not None else ""
        shown.say(f"  {TITLES.get(event.part, event.part)} {what}{detail}{took}")

    return tell
