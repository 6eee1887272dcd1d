"""A sweep, from its submission to the settings that the next job takes."""

import json
import uuid
from typing import Any

import pytest
from sqlalchemy import select

from factory import datasets, experiments, invariants, jobs, samples
from factory.errors import Conflict, Invalid
from factory.spec import job_spec
from factory.tables import Job, Outbox
from workers import embedding, sweep
from workers.evaluate import Evaluator
from workers.gpu_worker import GpuWorker

from .factory_floor import WORDS, Floor

SMALL = {"guidance.gamma": [0.0, 0.5], "guidance.eta": [0.0, 0.5]}


@pytest.fixture
def gpu(floor: Floor) -> GpuWorker:
    return GpuWorker(floor.settings, floor.database)


@pytest.fixture
def cpu(floor: Floor) -> Evaluator:
    return Evaluator(
        floor.settings, floor.database, embedder=lambda: embedding.load(floor.settings)
    )


def add_real(floor: Floor, count: int = 24) -> None:
    texts = [" ".join(WORDS[(i + j * j) % len(WORDS)] for j in range(6)) for i in range(count)]
    with floor.database.transaction() as session:
        lines = [json.dumps({"text": text}).encode() for text in texts]
        datasets.import_lines(session, floor.dataset, lines)


def submit(floor: Floor, **fields: Any) -> Job:
    body = {
        "kind": "sweep",
        "dataset": floor.dataset.name,
        "model": floor.model.name,
        "seed": 3,
        "count": 4,
        "sampling": {"max_new_tokens": 8},
        **fields,
    }
    spec: Any = job_spec.validate_python(body)
    with floor.database.transaction() as session:
        return experiments.submit(session, spec, floor.dataset, floor.model, request=body)[0]


def owed(floor: Floor) -> dict[uuid.UUID, str]:
    """Shards whose wake-up is owed, and to which task."""
    with floor.database.transaction() as session:
        ours = select(Outbox.key, Outbox.task).where(Outbox.task.like("%.run_shard"))
        mine = {
            shard.id
            for job in session.scalars(select(Job).where(Job.dataset_id == floor.dataset.id))
            for shard in jobs.shards_of(session, job.id)
        }
        return {key: task for key, task in session.execute(ours).tuples() if key in mine}


def work_off(floor: Floor, gpu: GpuWorker, cpu: Evaluator, rounds: int = 9) -> None:
    """Do what is owed until nothing is, as both workers do."""
    for _ in range(rounds):
        for key, task in owed(floor).items():
            (cpu if task.startswith("workers.cpu") else gpu).run_shard(key)


def check_invariants(floor: Floor) -> None:
    with floor.database.snapshot() as session:
        found = invariants.violations(session)
        mine = {str(job.id) for job in session.scalars(select(Job)).all()}
    assert [each for each in found if any(id_ in each.row for id_ in mine)] == []
    assert [each for each in found if "shard" in each.row] == []


def test_a_grid_is_made_measured_and_used(floor: Floor, gpu: GpuWorker, cpu: Evaluator) -> None:
    add_real(floor)
    job = submit(floor, method="grid", space=SMALL)
    assert set(owed(floor).values()) == {"workers.gpu.run_shard"}
    check_invariants(floor)
    work_off(floor, gpu, cpu)
    ended = floor.job(job)
    assert (ended.state, ended.error) == ("succeeded", None)
    result = ended.result or {}
    points = result["points"]
    assert [point["position"] for point in points] == [0, 1, 2, 3]  # (0, 0) is tried once
    assert points[0]["choice"] == {"guidance.gamma": 0, "guidance.eta": 0}
    for point in points:
        assert {m["n"] for m in point["measures"].values()} == {4}
        assert 0 <= point["measures"]["harmonic"]["low"] <= point["measures"]["harmonic"]["high"]
        assert len(point["texts"]) == 4
    assert result["floor_of"] == "real"
    assert result["probe"]["real"] == 24
    assert result["fit"]["verdict"] in ("underfit", "well fit", "memorising")
    best = max(points, key=lambda point: point["measures"]["harmonic"]["value"])
    assert result["recommendation"]["position"] == best["position"]
    with floor.database.transaction() as session:
        progress = jobs.progress(session, session.get_one(Job, job.id))
    assert (progress.done, progress.planned) == (16, 16)
    check_invariants(floor)

    with floor.database.transaction() as session:
        dataset = experiments.use(session, job.id, 3)
        wanted = experiments.tried(session, job.id)[3][0].spec
    assert dataset.defaults["guidance"] == wanted["guidance"]
    assert dataset.defaults["job"] == str(job.id)
    body = {"kind": "generate", "dataset": "d", "model": "m", "count": 1, "guidance": {"eta": 0.1}}
    spec: Any = job_spec.validate_python(body)
    filled = experiments.filled(dataset, spec)
    assert (filled.guidance.gamma, filled.guidance.eta) == (0.5, 0.1)
    assert filled.sampling.max_new_tokens == 8


def test_the_same_seeds_and_no_sample_of_another_setting_as_a_negative(
    floor: Floor, gpu: GpuWorker, cpu: Evaluator
) -> None:
    job = submit(floor, method="grid", space=SMALL, negatives={"sources": {"synthetic": 1}})
    work_off(floor, gpu, cpu)
    with floor.database.transaction() as session:
        made = experiments.tried(session, job.id)
        assert {child.spec["seed"] for (child,) in made.values()} == {3}
        for (child,) in made.values():
            for sample in floor.samples(child):
                assert not sample.audit
                links = samples.negatives_of(session, sample.id)
                assert {source.job_id for _, source in links} <= {child.id}
    assert (floor.job(job).result or {})["floor_of"] == "plain"  # no real samples here
    after = floor.submit(2, negatives={"sources": {"synthetic": 1}})
    for shard in floor.shards(after):
        gpu.run_shard(shard.id)
    with floor.database.transaction() as session:
        for sample in floor.samples(after):
            links = samples.negatives_of(session, sample.id)
            assert {source.job_id for _, source in links} <= {after.id}
        chosen = samples.chosen(session, floor.dataset.id, origin="synthetic", limit=99, seed=0)
        assert {sample.job_id for sample in chosen} == {after.id}


def test_halving_gives_the_better_half_more_samples(
    floor: Floor, gpu: GpuWorker, cpu: Evaluator
) -> None:
    add_real(floor)
    job = submit(floor, points=5, use=True)
    work_off(floor, gpu, cpu)
    ended = floor.job(job)
    assert ended.state == "succeeded"
    points = (ended.result or {})["points"]
    assert sorted(point["round"] for point in points) == [0, 0, 1, 2, 2]
    assert points[0]["round"] == 2  # what the others are compared with
    sizes = {point["round"]: point["measures"]["harmonic"]["n"] for point in points}
    assert sizes == {0: 4, 1: 8, 2: 16}
    with floor.database.transaction() as session:
        progress = jobs.progress(session, session.get_one(Job, job.id))
        dataset = datasets.get(session, floor.dataset.name)
        seeds = [child.spec["seed"] for child in experiments.tried(session, job.id)[0]]
    assert progress.done == progress.planned == 5 * 4 + 3 * 4 + 2 * 8
    assert dataset.defaults["job"] == str(job.id)
    assert len(set(seeds)) == 3
    assert not [each for each in jobs_listed(floor) if each.parent_id]


def jobs_listed(floor: Floor) -> list[Job]:
    with floor.database.transaction() as session:
        return list(jobs.list_page(session, dataset_id=floor.dataset.id))


def test_a_worker_that_dies_between_two_rounds_begins_the_next_once(
    floor: Floor, gpu: GpuWorker, cpu: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_real(floor)
    job = submit(floor, points=3)

    def dies(*_: Any) -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr(Evaluator, "_finish", dies)  # the round is kept, its shard is not ended
    for _ in range(2):
        for key, task in owed(floor).items():
            if task == "workers.gpu.run_shard":
                gpu.run_shard(key)
            else:
                cpu.run_shard(key)
    monkeypatch.undo()
    work_off(floor, gpu, cpu)
    assert floor.job(job).state == "succeeded"
    with floor.database.transaction() as session:
        made = experiments.tried(session, job.id)
    assert [len(made[at]) for at in sorted(made)].count(2) == 2  # two went on, once
    check_invariants(floor)


def test_pause_resume_and_cancel_reach_the_jobs_of_a_sweep(
    floor: Floor, gpu: GpuWorker, cpu: Evaluator
) -> None:
    job = submit(floor, method="grid", space=SMALL)
    with floor.database.transaction() as session:
        jobs.pause(session, job.id)
    work_off(floor, gpu, cpu, rounds=1)
    assert not owed(floor)
    with floor.database.transaction() as session:
        assert {child.state for child in jobs.children(session, job.id)} == {"paused"}
        jobs.resume(session, job.id)
    check_invariants(floor)
    work_off(floor, gpu, cpu)
    assert floor.job(job).state == "succeeded"

    other = submit(floor, method="grid", space=SMALL)
    with floor.database.transaction() as session:
        jobs.cancel(session, other.id)
        assert {child.state for child in jobs.children(session, other.id)} == {"cancelled"}
        with pytest.raises(Conflict, match="no recommendation yet"):
            experiments.use(session, other.id)
        with pytest.raises(Invalid, match="has tried no settings 99"):
            experiments.use(session, other.id, 99)
    check_invariants(floor)


def test_settings_that_fail_are_left_out_and_all_failing_says_why(
    floor: Floor, gpu: GpuWorker, cpu: Evaluator
) -> None:
    add_real(floor)
    job = submit(floor, method="grid", space=SMALL)
    with floor.database.transaction() as session:
        first = experiments.tried(session, job.id)[1][0]
        jobs.fail(session, first.id, "The model cannot be used.")
    work_off(floor, gpu, cpu)
    ended = floor.job(job)
    assert ended.state == "succeeded"
    point = (ended.result or {})["points"][1]
    assert point["error"] == "The model cannot be used."
    assert point["measures"]["harmonic"]["value"] is None

    other = submit(floor, method="grid", space=SMALL)
    with floor.database.transaction() as session:
        for child in jobs.children(session, other.id):
            jobs.fail(session, child.id, "No such file.")
    work_off(floor, gpu, cpu)
    assert floor.job(other).state == "failed"
    assert "No such file." in (floor.job(other).error or "")


def test_it_goes_on_where_a_measuring_worker_was_stopped(
    floor: Floor, gpu: GpuWorker, cpu: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(floor, method="grid", space=SMALL)
    work_off(floor, gpu, GpuLess(), rounds=1)  # type: ignore[arg-type]

    def broken(*_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(sweep.points, "measures", broken)
    work_off(floor, gpu, cpu, rounds=1)
    assert floor.job(job).state == "running"
    monkeypatch.undo()
    work_off(floor, gpu, cpu)
    assert floor.job(job).state == "succeeded"


class GpuLess:
    """A CPU worker that is away."""

    def run_shard(self, shard_id: uuid.UUID) -> None:
        """Do nothing."""
