"""Jobs: the list, and one job live."""

import hashlib
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from flask import flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from factory import datasets, jobs, samples
from factory.tables import Dataset, Job, Sample, Shard
from factory.web.pages import copies, evaluation, losses, words
from factory.web.pages.evaluation import Evaluation
from factory.web.pages.frame import page, paged, pages
from factory.web.pages.losses import Losses
from factory.web.state import current

PAGE = 25
NEWEST = 12  # samples on a job's page
STRIP = 240  # shards drawn; a longer job shows the first ones
STATES = (*jobs.LIVE, *jobs.ENDED)


@dataclass(frozen=True)
class Row:
    """One line of a list of jobs. `progress` is counted for live ones only."""

    job: Job
    title: str
    settings: str
    progress: jobs.Progress | None


@dataclass(frozen=True)
class Live:
    """What the live part of a job's page shows."""

    job: Job
    progress: jobs.Progress
    shards: Sequence[Shard]
    shard_counts: Counter[str]
    states: dict[str, int]
    newest: Sequence[Sample]
    evaluation: Evaluation | None

    @property
    def losses(self) -> Losses:
        """A train job's loss so far."""
        return losses.of_shards(self.shards)

    @property
    def running(self) -> bool:
        """Whether there is more to come."""
        return self.job.state in jobs.LIVE

    @property
    def seen(self) -> str:
        """Changes with whatever can be seen; the page asks only for what it has not seen."""
        shards = [(s.state, s.worker, s.fence, s.crashes) for s in self.shards]
        progress = (self.progress.done, self.progress.failed)
        evaluated = self.evaluation.job if self.evaluation else None
        visible = (self.job.state, self.job.error, progress, shards, self.states, evaluated)
        seen = repr((visible, len(self.losses.points)))
        return hashlib.sha256(seen.encode()).hexdigest()[:16]

    @property
    def spoken(self) -> str:
        """For screen readers: changes at every tenth of the way."""
        made = self.progress.done + self.progress.failed
        tenth = 10 * made // max(1, self.progress.planned)
        return f"Job {words.plain(self.job.state)}, {10 * tenth} percent"


def rows_of(session: Session, found: Sequence[Job]) -> list[Row]:
    """Jobs as lines of a list."""
    return [
        Row(
            job,
            words.job_title(job),
            words.job_settings(job),
            jobs.progress(session, job) if job.state in jobs.LIVE else None,
        )
        for job in found
    ]


@pages.get("/jobs")
def jobs_list() -> ResponseReturnValue:
    """Every job, newest first."""
    state = request.args.get("state") or None
    name = request.args.get("dataset") or None
    with current().db.transaction() as session:
        dataset = datasets.get(session, name) if name else None
        dataset_id = dataset.id if dataset else None
        found, older = paged(
            lambda before, n: jobs.list_page(
                session, dataset_id=dataset_id, state=state, before=before, limit=n
            ),
            PAGE,
        )
        return page(
            session,
            "jobs/index.html",
            rows=rows_of(session, found),
            older=older,
            state=state,
            states=STATES,
            dataset=dataset,
        )


@pages.get("/jobs/<uuid:job_id>")
def job(job_id: uuid.UUID) -> ResponseReturnValue:
    """One job: its progress live, its samples as they come, its settings."""
    with current().db.transaction() as session:
        live = _live(session, job_id)
        if live.job.kind == "sweep":
            return redirect(url_for("pages.experiment", job_id=job_id), 303)
        return page(
            session,
            "jobs/show.html",
            live=live,
            job=live.job,
            dataset=session.get_one(Dataset, live.job.dataset_id),
            same=copies.of_spec(live.job.spec, request.host_url),
        )


@pages.get("/jobs/<uuid:job_id>/live")
def job_live(job_id: uuid.UUID) -> ResponseReturnValue:
    """The live part alone; 204 while nothing has changed."""
    with current().db.transaction() as session:
        live = _live(session, job_id)
        if request.args.get("seen") == live.seen:
            return "", 204
        return render_template("jobs/_live.html", live=live, job=live.job)


@pages.post("/jobs/<uuid:job_id>/<any(cancel,pause,resume):action>")
def control_job(job_id: uuid.UUID, action: str) -> ResponseReturnValue:
    """Cancel, pause or resume."""
    act = {"cancel": jobs.cancel, "pause": jobs.pause, "resume": jobs.resume}[action]
    with current().db.transaction() as session:
        after = act(session, job_id)
        flash(f"The job is {words.plain(after.state)} now.", "good")
    return redirect(url_for("pages.job", job_id=job_id), 303)


def _live(session: Session, job_id: uuid.UUID) -> Live:
    job = jobs.get(session, job_id)
    shards = jobs.shards_of(session, job_id)
    return Live(
        job=job,
        progress=jobs.progress(session, job),
        shards=shards[:STRIP],
        shard_counts=Counter(shard.state for shard in shards),
        states=samples.states_of_job(session, job_id),
        newest=samples.list_page(session, job.dataset_id, job_id=job_id, limit=NEWEST),
        evaluation=evaluation.of_job(session, job),
    )
