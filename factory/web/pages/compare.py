"""Two generate jobs side by side: their settings, what came of them, and their samples."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flask import request
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from factory import jobs, near_copies, samples, texts
from factory.intervals import Interval, difference, wilson
from factory.tables import Dataset, Job, Sample
from factory.texts import Part
from factory.web.pages import words
from factory.web.pages.forms import flat
from factory.web.pages.frame import page, pages
from factory.web.pages.job_form import generate_job
from factory.web.state import current

PAGE = 20  # pairs of samples
CHOICES = 50  # newest jobs to choose from
VARIETY = 300  # first texts of each job that variety is measured on
SAID = {  # settings by their dotted names, in plain words
    "model": "Model pair",
    "prompt": "Prompt",
    "count": "Samples",
    "seed": "Seed",
    "audit": "Made without feedback",
    "guidance.rule": "Rule",
    "guidance.gamma": "Follow the expert (γ)",
    "guidance.eta": "Avoid what exists (η)",
    "guidance.alpha": "Plausibility floor (α)",
    "guidance.nucleus": "Plausible mass",
    "negatives.count": "Negatives per sample",
    "negatives.strategy": "How negatives are drawn",
    "negatives.center": "Centred on accepted ones",
    "sampling.temperature": "Temperature",
    "sampling.max_new_tokens": "Longest text, in tokens",
    "sampling.stop": "Stop texts",
    "review.fraction": "Share sent to review",
}
LEFT_OUT = ("kind", "dataset", "preset")


@dataclass(frozen=True)
class Setting:
    """One setting of both jobs."""

    name: str
    left: str
    right: str

    @property
    def differs(self) -> bool:
        """Whether the jobs differ in it."""
        return self.left != self.right


@dataclass(frozen=True)
class Value:
    """A figure of one job with its 95 % interval; None where it cannot be said."""

    value: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Figure:
    """A figure of both jobs. `apart`: the interval of right minus left (shares), None when it is
    not known."""

    title: str
    says: str
    left: Value
    right: Value
    apart: Interval | None

    @property
    def is_clear(self) -> bool:
        """Whether the jobs differ by more than chance would have it."""
        return self.apart is not None and not self.apart[0] <= 0 <= self.apart[1]


@dataclass(frozen=True)
class Cell:
    """A sample in parts; those that the other job's lacks are marked."""

    sample: Sample
    parts: Sequence[Part]


@dataclass(frozen=True)
class Pair:
    """The samples of one ordinal; None where a job has none."""

    ordinal: int
    left: Cell | None
    right: Cell | None

    @property
    def same(self) -> bool:
        """Whether both jobs made the same text."""
        return bool(self.left and self.right and self.left.sample.text == self.right.sample.text)


@dataclass(frozen=True)
class Counts:
    """How many samples of a job there are: all, and those with a state or mark."""

    all: int
    states: Mapping[str, int]
    near_copies: int

    def of(self, *states: str) -> int:
        """Those in one of these states."""
        return sum(self.states.get(state, 0) for state in states)

    @property
    def decided(self) -> int:
        """Those with a verdict."""
        return self.of("accepted", "rejected", "fixed")


# title, what it says, hits and size
SHARES: Sequence[tuple[str, str, Callable[[Counts], int], Callable[[Counts], int]]] = (
    ("Accepted", "of those with a verdict", lambda c: c.of("accepted"), lambda c: c.decided),
    ("Rejected", "of those with a verdict", lambda c: c.of("rejected"), lambda c: c.decided),
    ("Filtered out", "of all that were made", lambda c: c.of("filtered"), lambda c: c.all),
    ("Near-copies", "of all that were made", lambda c: c.near_copies, lambda c: c.all),
)


@pages.get("/jobs/compare")
def compare_jobs() -> ResponseReturnValue:
    """Two jobs side by side, or the choice of the second."""
    start = max(0, request.args.get("start", 0, type=int))
    with current().db.transaction() as session:
        left = _named(session, "left") or _newest(session)
        right = _named(session, "right")
        if left is None or right is None:
            return _choice(session, left)
        pairs = _pairs(session, left, right, start)
        stop = start + PAGE
        return page(
            session,
            "jobs/compare.html",
            left=left,
            right=right,
            dataset=session.get_one(Dataset, left.dataset_id),
            choices=_choices(session, left, right),
            settings=_settings(left.spec, right.spec),
            figures=_figures(session, left, right),
            speeds=[(job, jobs.progress(session, job)) for job in (left, right)],
            pairs=pairs,
            seeds=left.spec["seed"] == right.spec["seed"],
            start=start,
            before=max(0, start - PAGE) if start else None,
            following=stop if stop < max(left.count, right.count) else None,
        )


def _choice(session: Session, left: Job | None) -> ResponseReturnValue:
    dataset = session.get_one(Dataset, left.dataset_id) if left else None
    choices = _choices(session, left) if left else []
    return page(
        session, "jobs/compare.html", left=left, right=None, dataset=dataset, choices=choices
    )


def _named(session: Session, side: str) -> Job | None:
    """The generate job that the address names. Raises NotFound."""
    given = request.args.get(side)
    return generate_job(session, given, "compared") if given else None


def _newest(session: Session) -> Job | None:
    return next(iter(jobs.list_page(session, kind="generate", limit=1)), None)


def _choices(session: Session, *chosen: Job) -> Sequence[Job]:
    """The newest jobs of the first one's dataset, and those that are chosen."""
    newest = jobs.list_page(
        session, dataset_id=chosen[0].dataset_id, kind="generate", limit=CHOICES
    )
    return [*newest, *(job for job in chosen if job not in newest)]


def _settings(left: Mapping[str, Any], right: Mapping[str, Any]) -> Sequence[Setting]:
    """Every setting of either job, those that people know first."""
    sides = [_texts(spec) for spec in (left, right)]
    names = [*SAID, *sorted({*sides[0], *sides[1]} - {*SAID})]
    return [
        Setting(SAID.get(name, name), *(side.get(name, "–") for side in sides))
        for name in names
        if any(name in side for side in sides)
    ]


def _texts(spec: Mapping[str, Any]) -> dict[str, str]:
    stops = json.dumps(spec["sampling"]["stop"], ensure_ascii=False)
    said = {name: value or "–" for name, value in flat(spec).items() if name not in LEFT_OUT}
    return said | {"sampling.stop": stops}


def _figures(session: Session, left: Job, right: Job) -> Sequence[Figure]:
    one, other = _counts(session, left), _counts(session, right)
    shares = [
        _share_figure(title, says, (hits(one), size(one)), (hits(other), size(other)))
        for title, says, hits, size in SHARES
    ]
    mine, others = _first_texts(session, left), _first_texts(session, right)
    said = f"different runs of words among the first {VARIETY} texts"
    varied = [
        Figure(f"distinct-{n}", said, _variety(mine, n), _variety(others, n), None) for n in (2, 3)
    ]
    return [*shares, *varied]


def _share_figure(title: str, says: str, left: tuple[int, int], right: tuple[int, int]) -> Figure:
    """A share of each job, from its hits and the number of all."""
    apart = difference(*right, *left) if left[1] and right[1] else None
    return Figure(title, says, _share(*left), _share(*right), apart)


def _first_texts(session: Session, job: Job) -> Sequence[str]:
    return [sample.text for sample in samples.of_job(session, job.id, 0, VARIETY).values()]


def _counts(session: Session, job: Job) -> Counts:
    states = samples.states_of_job(session, job.id)
    return Counts(sum(states.values()), states, near_copies.of_job(session, job.id))


def _share(hits: int, size: int) -> Value:
    return Value(hits / size, wilson(hits, size)) if size else Value(None, None)


def _variety(made: Sequence[str], n: int) -> Value:
    return Value(texts.distinct(made, n), texts.distinct_interval(made, n))


def _pairs(session: Session, left: Job, right: Job, start: int) -> Sequence[Pair]:
    found = [samples.of_job(session, job.id, start, start + PAGE) for job in (left, right)]
    ordinals = sorted({*found[0], *found[1]})
    return [
        Pair(n, _cell(found[0].get(n), found[1].get(n)), _cell(found[1].get(n), found[0].get(n)))
        for n in ordinals
    ]


def _cell(sample: Sample | None, other: Sample | None) -> Cell | None:
    """Differences are marked between samples of one seed; of two they would say nothing."""
    if sample is None:
        return None
    if other is None or other.seed != sample.seed:
        return Cell(sample, [Part(sample.text, False)])
    return Cell(sample, texts.differences(sample.text, other.text))


def interval_said(interval: Interval | None) -> str:
    """An interval in words; empty when there is none."""
    if interval is None:
        return ""
    return f"{words.short_share(interval[0])} to {words.short_share(interval[1])}"


pages.add_app_template_filter(interval_said, "interval_said")
