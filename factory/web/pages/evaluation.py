"""Evaluations: asking for one, and what one found as lines with their bars."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any
from uuid import UUID

from flask import redirect, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from factory import datasets, jobs
from factory.metrics import METRICS, NAMES, MetricName
from factory.spec import EvaluateSpec
from factory.tables import Job
from factory.web.api.jobs import check_evaluated
from factory.web.inputs import validated
from factory.web.pages import words
from factory.web.pages.frame import pages
from factory.web.state import current

WIDTH = 100.0  # of a drawing, in its units
HEADLINES: tuple[MetricName, ...] = (
    *("yield", "acceptance_guided", "acceptance_audit", "distinct_3", "self_bleu"),
    *("mauve", "auroc", "coverage", "verbatim", "near_copies_ngram"),
)


@dataclass(frozen=True)
class Mark:
    """A value and its interval along a line, in the drawing's units."""

    value: float
    low: float
    width: float


@dataclass(frozen=True)
class Line:
    """One measure as it is shown: of the samples, and of real ones to compare with."""

    title: str
    says: str
    value: str | None
    interval: str | None
    note: str | None
    natural: str | None
    natural_interval: str | None
    made: Mark | None
    real: Mark | None


@dataclass(frozen=True)
class Evaluation:
    """What an evaluate job found; `lines` by group."""

    job: UUID
    samples: int
    real: int
    ended_at: datetime | None
    lines: Sequence[tuple[str, Sequence[Line]]]


@pages.post("/datasets/<name>/evaluate")
def evaluate(name: str) -> ResponseReturnValue:
    """Submit an evaluation of the dataset, or of one job's samples."""
    given = {"kind": "evaluate", "dataset": name} | request.form.to_dict()
    spec = validated(EvaluateSpec, given)
    with current().db.transaction() as session:
        dataset = datasets.get(session, name)
        check_evaluated(session, spec, dataset)
        job, _ = jobs.submit(session, spec, dataset, None, request=given)
    return redirect(url_for("pages.job", job_id=job.id), 303)


def found(job: Job | None, names: Collection[str] = NAMES) -> Evaluation | None:
    """What a job that is done has found, as far as it is about `names`; None without one."""
    if job is None or not job.result:
        return None
    natural = {measure["name"]: measure for measure in job.result["reference"]}
    chosen = [measure for measure in job.result["measures"] if measure["name"] in names]
    measures = sorted(chosen, key=lambda measure: NAMES.index(measure["name"]))
    by_group = groupby(measures, key=lambda measure: METRICS[measure["name"]].group)
    lines = [
        (group, [_line(measure, natural.get(measure["name"])) for measure in some])
        for group, some in by_group
    ]
    return Evaluation(job.id, job.result["samples"], job.result["real"], job.ended_at, lines)


def of_job(session: Session, job: Job) -> Evaluation | None:
    """What an evaluate job found, or the main of the newest one on a generate job's samples."""
    if job.kind == "evaluate":
        return found(job)
    return found(jobs.newest_evaluation(session, job.dataset_id, of=job.id), HEADLINES)


def _line(measure: Mapping[str, Any], natural: Mapping[str, Any] | None) -> Line:
    metric = METRICS[measure["name"]]
    both = [each for each in (measure, natural) if each and each["value"] is not None]
    end = 1.0 if metric.is_share else max((each["high"] for each in both), default=1.0)
    return Line(
        title=metric.title,
        says=metric.says,
        value=_number(measure),
        interval=_interval(measure),
        note=measure["note"],
        natural=_number(natural),
        natural_interval=_interval(natural),
        made=_mark(measure, end),
        real=_mark(natural, end),
    )


def _mark(measure: Mapping[str, Any] | None, end: float) -> Mark | None:
    if measure is None or measure["value"] is None:
        return None
    value, low, high = (_place(measure[name], end) for name in ("value", "low", "high"))
    return Mark(value, low, round(max(high - low, 0.2), 2))


def _place(value: float, end: float) -> float:
    return round(WIDTH * min(1.0, max(0.0, value / (end or 1.0))), 2)


def _number(measure: Mapping[str, Any] | None) -> str | None:
    return None if measure is None or measure["value"] is None else words.lever(measure["value"])


def _interval(measure: Mapping[str, Any] | None) -> str | None:
    if measure is None or measure["value"] is None:
        return None
    return f"{words.lever(measure['low'])} to {words.lever(measure['high'])}"
