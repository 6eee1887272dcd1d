"""A train job registers the pair that it made, and a second attempt finds it."""

import json
from pathlib import Path
from typing import Any

import pytest

from factory import datasets, jobs, models
from factory.ids import new_id
from factory.spec import job_spec
from factory.tables import Job
from workers.gpu_worker import GpuWorker

from .factory_floor import WORDS, Floor


@pytest.fixture
def gpu(floor: Floor) -> GpuWorker:
    return GpuWorker(floor.settings, floor.database)


def train(floor: Floor, base: str, **fields: Any) -> Job:
    body = {
        "kind": "train",
        "dataset": floor.dataset.name,
        "model": f"t{new_id().hex}",
        "base": base,
        "steps": 3,
        **fields,
    }
    with floor.database.transaction() as session:
        spec = job_spec.validate_python(body)
        return jobs.submit(session, spec, floor.dataset, None, request=body)[0]


def add_real(floor: Floor) -> None:
    texts = (" ".join(WORDS[i : i + 4]) for i in range(40))
    lines = [json.dumps({"text": text}).encode() for text in texts]
    with floor.database.transaction() as session:
        datasets.import_lines(session, floor.dataset, lines)


def run(floor: Floor, gpu: GpuWorker, job: Job) -> Job:
    for shard in floor.shards(job):
        gpu.run_shard(shard.id)
    return floor.job(job)


def test_a_trained_pair_is_registered_and_generates(floor: Floor, gpu: GpuWorker) -> None:
    add_real(floor)
    job = run(floor, gpu, train(floor, floor.model.base))
    assert (job.state, job.error) == ("succeeded", None)
    with floor.database.transaction() as session:
        now = jobs.progress(session, job)
        pair = models.get(session, job.spec["model"])
    assert (now.done, now.planned) == (3, 3)
    assert job.model_id == pair.id
    assert pair.base == floor.model.base
    assert Path(pair.expert).is_relative_to(floor.settings.models_dir)
    assert (job.result or {})["model"] == pair.name
    assert (job.result or {})["loss"] > 0
    made = floor.submit(2, 2)
    with floor.database.transaction() as session:
        session.get_one(Job, made.id).model_id = pair.id
    assert run(floor, gpu, made).state == "succeeded"


def test_an_attempt_after_a_crash_at_the_end_comes_to_the_same_pair(
    floor: Floor, gpu: GpuWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_real(floor)
    job = train(floor, floor.model.base)
    finish = gpu._finish

    def crash(lease: Any) -> None:
        monkeypatch.setattr(gpu, "_finish", finish)
        raise RuntimeError("power cut")

    monkeypatch.setattr(gpu, "_finish", crash)
    assert run(floor, gpu, job).state == "running"
    assert floor.shards(job)[0].crashes == 1
    ended = run(floor, gpu, job)
    assert (ended.state, (ended.result or {})["cached"]) == ("succeeded", True)


def test_a_dataset_without_samples_cannot_be_trained_on(floor: Floor, gpu: GpuWorker) -> None:
    job = run(floor, gpu, train(floor, floor.model.base))
    assert job.state == "failed"
    assert "sample" in (job.error or "")
