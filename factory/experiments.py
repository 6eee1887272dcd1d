"""Sweeps: many settings tried on the same seeds, each as a generate job of its own.

    submit → children of round 1 → (all have ended) → measured → children of round 2 → … → result

Composes the stages of jobs and datasets. What is measured, and which settings go on, workers
decide; the rows here only hold it.
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from factory import datasets, jobs
from factory.errors import Conflict, FieldError, Invalid
from factory.spec import Defaults, GenerateSpec, ProbeSpec, SweepSpec, row_seed
from factory.tables import Dataset, Job, ModelPair

GROUPS = ("guidance", "negatives", "sampling")


def submit(
    session: Session,
    spec: SweepSpec,
    dataset: Dataset,
    model: ModelPair,
    *,
    request: Any,
    idempotency_key: str | None = None,
) -> tuple[Job, bool]:
    """Store a sweep, the jobs of its first round and their wake-ups; see `jobs.submit`."""
    job, is_new = jobs.submit(
        session, spec, dataset, model, request=request, idempotency_key=idempotency_key
    )
    if is_new:
        spec = SweepSpec.model_validate(job.spec)
        choices = spec.choices()
        points = [{"position": i, "choice": choice} for i, choice in enumerate(choices)]
        job.result = {"points": points}
        for shard, rung in zip(jobs.shards_of(session, job.id), spec.rungs(), strict=True):
            shard.progress = {"planned": rung.points * rung.samples}
        _probe(session, job, spec, dataset, model)
        begin(session, job, 0, range(len(choices)))
    return job, is_new


def begin(session: Session, sweep: Job, rung: int, positions: Sequence[int]) -> None:
    """Submit the jobs of a round: these settings, all on the same new seeds. A round that was
    begun already is left as it is."""
    if any(len(made) > rung for made in tried(session, sweep.id).values()):
        return
    spec = SweepSpec.model_validate(sweep.spec)
    dataset, model = (
        session.get_one(Dataset, sweep.dataset_id),
        session.get_one(ModelPair, sweep.model_id),
    )
    seed = spec.seed if rung == 0 else row_seed(spec.seed, rung)
    choices = {point["position"]: point["choice"] for point in (sweep.result or {})["points"]}
    for position in positions:
        point = spec.point(choices[position], spec.rungs()[rung].samples, seed)
        jobs.submit(session, point, dataset, model, request=None, parent=sweep, position=position)


def tried(session: Session, job_id: uuid.UUID) -> dict[int, list[Job]]:
    """The generate jobs of a sweep by the position of their settings, in their order."""
    found: dict[int, list[Job]] = {}
    for job in jobs.children(session, job_id):
        if job.position is not None:
            found.setdefault(job.position, []).append(job)
    return found


def probe_of(session: Session, job_id: uuid.UUID) -> Job | None:
    """The job of a sweep that measures its model pair."""
    return session.scalar(select(Job).where(Job.parent_id == job_id, Job.kind == "probe"))


def settings_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Guidance, negatives and sampling of a generate job's spec."""
    return {group: spec[group] for group in GROUPS}


def use(session: Session, job_id: uuid.UUID, position: int | None = None) -> Dataset:
    """Make settings of a sweep the dataset's defaults: those of `position`, or the recommended.

    Raises Conflict when there is no recommendation yet, Invalid when there is no such position.
    """
    job = jobs.get(session, job_id)
    recommended = ((job.result or {}).get("recommendation") or {}).get("position")
    if job.kind != "sweep":
        raise Conflict(f"Job {job_id} is a {job.kind} job. Only a sweep's settings can be used.")
    chosen = recommended if position is None else position
    if chosen is None:
        raise Conflict(f"Sweep {job_id} is {job.state} and has no recommendation yet.")
    made = tried(session, job_id).get(chosen)
    if made is None:
        reason = FieldError("position", f"is not one of the sweep's: {chosen}")
        raise Invalid(f"Sweep {job_id} has tried no settings {chosen}.", [reason])
    dataset = session.get_one(Dataset, job.dataset_id)
    given = {**settings_of(made[0].spec), "job": job.id}
    datasets.set_defaults(dataset, Defaults.model_validate(given))
    return dataset


def filled(dataset: Dataset, spec: GenerateSpec) -> GenerateSpec:
    """The spec with the dataset's defaults in place of what it leaves out."""
    return datasets.defaults(dataset).fill(spec)


def _probe(
    session: Session, sweep: Job, spec: SweepSpec, dataset: Dataset, model: ModelPair
) -> None:
    probe = ProbeSpec(
        kind="probe", dataset=spec.dataset, model=spec.model, prompt=spec.prompt, seed=spec.seed
    )
    jobs.submit(session, probe, dataset, model, request=None, parent=sweep)
