"""An evaluate job, from its submission to the measures that are kept."""

import json
from typing import Any

import pytest

from factory import datasets, jobs, outbox, samples
from factory.metrics import NAMES
from factory.spec import job_spec
from factory.tables import Attempt, Job, Sample
from workers import embedding, evaluate
from workers.evaluate import Evaluator
from workers.gpu_worker import GpuWorker

from .factory_floor import WORDS, Floor


@pytest.fixture(scope="module")
def embedder(settings: Any) -> embedding.Embedder:
    return embedding.load(settings)


@pytest.fixture
def cpu(floor: Floor, embedder: embedding.Embedder) -> Evaluator:
    return Evaluator(floor.settings, floor.database, embedder=lambda: embedder)


def texts(count: int, start: int = 0) -> list[str]:
    return [
        " ".join(WORDS[(start + i + j * j) % len(WORDS)] for j in range(6)) for i in range(count)
    ]


def add_real(floor: Floor, real: list[str]) -> None:
    with floor.database.transaction() as session:
        lines = [json.dumps({"text": text}).encode() for text in real]
        datasets.import_lines(session, floor.dataset, lines)


def submit(floor: Floor, **fields: Any) -> Job:
    body = {"kind": "evaluate", "dataset": floor.dataset.name, **fields}
    with floor.database.transaction() as session:
        spec = job_spec.validate_python(body)
        return jobs.submit(session, spec, floor.dataset, None, request=body)[0]


def run(floor: Floor, cpu: Evaluator, job: Job) -> Job:
    for shard in floor.shards(job):
        cpu.run_shard(shard.id)
    return floor.job(job)


def found(job: Job, which: str = "measures") -> dict[str, dict[str, Any]]:
    return {measure["name"]: measure for measure in (job.result or {})[which]}


def generated(floor: Floor, count: int) -> Job:
    job = floor.submit(count, count, guidance={"eta": 0})
    gpu = GpuWorker(floor.settings, floor.database)
    for shard in floor.shards(job):
        gpu.run_shard(shard.id)
    return job


def test_samples_of_a_job_are_measured_beside_real_ones(floor: Floor, cpu: Evaluator) -> None:
    add_real(floor, texts(44))
    made = generated(floor, 24)
    generated(floor, 3)
    job = run(floor, cpu, submit(floor, job=str(made.id), seed=5))
    assert (job.state, job.error) == ("succeeded", None)
    measures, reference = found(job), found(job, "reference")
    assert list(measures) == list(NAMES)
    assert job.result is not None
    assert (job.result["samples"], job.result["real"]) == (24, 44)
    assert measures["length"]["n"] == measures["distinct_3"]["n"] == 24
    assert measures["coverage"]["n"] == reference["coverage"]["n"] == 22
    assert (measures["mauve"]["value"], bool(measures["mauve"]["note"])) == (None, True)
    assert measures["auroc"]["value"] > 0.7  # a random model is told from anything
    assert measures["verbatim"]["value"] == 0
    with floor.database.transaction() as session:
        now = jobs.progress(session, job)
        newest = jobs.newest_evaluation(session, floor.dataset.id)
        same = jobs.newest_evaluation(session, floor.dataset.id, of=made.id)
        none = jobs.newest_evaluation(session, floor.dataset.id, of=job.id)
    assert (now.done, now.planned) == (len(NAMES), len(NAMES))
    assert newest is not None
    assert newest.id == job.id
    assert same is not None
    assert none is None


def test_the_same_seed_finds_the_same(floor: Floor, cpu: Evaluator) -> None:
    add_real(floor, texts(44))
    generated(floor, 22)
    one, two = (run(floor, cpu, submit(floor, seed=5)) for _ in range(2))
    assert one.result == two.result


def test_missing_embeddings_are_made_and_kept(floor: Floor, cpu: Evaluator) -> None:
    add_real(floor, texts(4))
    made = generated(floor, 4)
    run(floor, cpu, submit(floor))
    with floor.database.transaction() as session:
        assert not samples.unembedded(session, floor.dataset.id, 10)
        assert len(samples.neighbours(session, floor.samples(made)[0].id, 5)) == 5


def test_filters_choose_the_samples(floor: Floor, cpu: Evaluator) -> None:
    made = floor.samples(generated(floor, 6))
    with floor.database.transaction() as session:
        for sample in made[:2]:
            session.get_one(Sample, sample.id).state = "accepted"
        session.get_one(Sample, made[2].id).state = "rejected"
    names = ["acceptance_guided", "acceptance_audit", "length"]
    whole = found(run(floor, cpu, submit(floor, metrics=names)))
    guided = [sample for sample in made[:3] if not sample.audit]
    assert list(whole) == names
    assert whole["length"]["n"] == 6
    assert whole["acceptance_guided"]["n"] == len(guided)
    accepted = found(run(floor, cpu, submit(floor, metrics=names, states=["accepted"])))
    assert accepted["length"]["n"] == 2
    few = found(run(floor, cpu, submit(floor, metrics=names, limit=3)))
    assert few["length"]["n"] == 3


def test_nothing_to_measure_is_a_failure_with_the_reason(floor: Floor, cpu: Evaluator) -> None:
    add_real(floor, texts(4))
    job = run(floor, cpu, submit(floor))
    assert job.state == "failed"
    assert "no such samples" in (job.error or "")


def test_its_shard_is_owed_to_a_cpu_worker_whatever_happens(floor: Floor, cpu: Evaluator) -> None:
    job = submit(floor)
    shard = floor.shards(job)[0].id

    def owed(task: str) -> bool:
        with floor.database.transaction() as session:
            return outbox.version(session, task, shard) is not None

    assert owed("workers.cpu.run_shard")
    with floor.database.transaction() as session:
        jobs.pause(session, job.id)
    cpu.run_shard(shard)
    assert not owed("workers.cpu.run_shard")
    with floor.database.transaction() as session:
        jobs.resume(session, job.id)
    assert owed("workers.cpu.run_shard")
    assert not owed("workers.gpu.run_shard")


def test_a_worker_that_breaks_tries_again_and_gives_up(
    floor: Floor, cpu: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated(floor, 2)

    def broken(*_: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(evaluate, "evaluate", broken)
    job = submit(floor)
    for _ in range(floor.settings.shard_attempts - 1):
        assert run(floor, cpu, job).state == "running"
    ended = run(floor, cpu, job)
    assert ended.state == "failed"
    assert "out of memory" in (ended.error or "")
    assert ended.result is None


def test_a_cancelled_evaluation_stops_and_keeps_nothing(
    floor: Floor, cpu: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated(floor, 2)
    monkeypatch.setattr(evaluate, "NOTE_SECONDS", 0.0)
    job, whole = submit(floor), evaluate.evaluate

    def cancelled_meanwhile(names: Any, made: Any, real: Any, seed: int, note: Any) -> Any:
        with floor.database.transaction() as session:
            jobs.cancel(session, job.id)
        return whole(names, made, real, seed, note)

    monkeypatch.setattr(evaluate, "evaluate", cancelled_meanwhile)
    ended = run(floor, cpu, job)
    assert (ended.state, ended.result) == ("cancelled", None)


def test_what_it_ran_on_is_kept(floor: Floor, cpu: Evaluator) -> None:
    generated(floor, 2)
    job = run(floor, cpu, submit(floor, metrics=["length"]))
    shard = floor.shards(job)[0]
    with floor.database.transaction() as session:
        attempt = session.query(Attempt).filter_by(shard_id=shard.id).one()
    assert attempt.worker.startswith("cpu@")
    assert "scikit-learn" in attempt.environment["software"]


def test_samples_of_labelled_jobs_are_worth_something_to_a_classifier(
    floor: Floor, cpu: Evaluator
) -> None:
    real = texts(80)
    with floor.database.transaction() as session:
        lines = [
            json.dumps({"text": text, "label": ("a", "b")[i % 2]}).encode()
            for i, text in enumerate(real)
        ]
        datasets.import_lines(session, floor.dataset, lines)
    gpu = GpuWorker(floor.settings, floor.database)
    for seed, label in enumerate(("a", "b")):
        job = floor.submit(24, 24, guidance={"eta": 0}, label=label, seed=seed)
        for shard in floor.shards(job):
            gpu.run_shard(shard.id)
        assert {sample.label for sample in floor.samples(job)} == {label}
    measured = run(floor, cpu, submit(floor, metrics=["utility"], seed=5))
    utility, natural = found(measured)["utility"], found(measured, "reference")["utility"]
    assert 20 <= utility["n"] <= 40  # the empty ones are left out
    assert natural["n"] == utility["n"]  # as many real ones teach the other classifier
    assert utility["low"] <= utility["value"] <= utility["high"]
    assert natural["value"] is not None
