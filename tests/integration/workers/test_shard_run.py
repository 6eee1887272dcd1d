"""A GPU worker in this process, on a tiny random pair and a real database."""

import ctypes
import json
import multiprocessing
import shutil
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sqlalchemy import select

from factory import datasets, jobs, samples, shards
from factory.spec import job_spec
from factory.tables import Failure, Job, Push, Sample, Shard
from workers import generate, gpu_worker
from workers.decoding import SteerDecoder
from workers.decoding.choosing import Chooser
from workers.generate import Composer
from workers.gpu_worker import GpuWorker
from workers.layout import Layout

from .factory_floor import PROMPT, Floor

NEGATIVES = {"count": 2, "sources": {"real": 1}, "group": 1}


@pytest.fixture
def gpu(floor: Floor) -> GpuWorker:
    return GpuWorker(floor.settings, floor.database)


def run_all(floor: Floor, gpu: GpuWorker, job: Job) -> Job:
    for shard in floor.shards(job):
        gpu.run_shard(shard.id)
    return floor.job(job)


def add_real(floor: Floor, *texts: str) -> dict[uuid.UUID, str]:
    lines = [json.dumps({"text": text}).encode() for text in texts]
    with floor.database.transaction() as session:
        datasets.import_lines(session, floor.dataset, lines)
        page = samples.list_page(session, floor.dataset.id, origin="real")
        return {sample.id: sample.text for sample in page}


@pytest.fixture
def requested(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every request that the decoder pulls."""
    seen: list[Any] = []
    run = SteerDecoder.run

    def watched(self: SteerDecoder, requests: Any) -> Iterator[Any]:
        def note() -> Iterator[Any]:
            for request in requests:
                seen.append(request)
                yield request

        return run(self, note())

    monkeypatch.setattr(SteerDecoder, "run", watched)
    return seen


def after(monkeypatch: pytest.MonkeyPatch, number: int, act: Any) -> None:
    """Do something once `number` texts are finished in this process."""
    finished = generate._finished
    count = [0]

    def counted(*arguments: Any) -> Any:
        count[0] += 1
        if count[0] == number:
            act()
        return finished(*arguments)

    monkeypatch.setattr(generate, "_finished", counted)


def test_a_job_is_made_whole_with_the_provenance_of_each_sample(
    floor: Floor, gpu: GpuWorker
) -> None:
    add_real(floor, "bae bai", "duo dul", "kis kim")
    job = floor.submit(10, 4, negatives=NEGATIVES, audit=0.2)
    assert run_all(floor, gpu, job).state == "succeeded"
    made = floor.samples(job)
    assert [sample.ordinal for sample in made] == list(range(10))
    assert [sample.audit for sample in made] == [i in (4, 9) for i in range(10)]
    with floor.database.transaction() as session:
        how = samples.provenance(session, made[0].id)
        pair = how["model"]
    assert {*how} >= {
        *("sample", "job", "shard", "ordinal", "seed", "prompt", "guidance", "sampling"),
        *("model", "negatives", "center", "audit", "layout", "kv", "slots", "device"),
        *("dtype", "software", "created_at"),
    }
    assert how["prompt"] == PROMPT
    assert len(how["negatives"]) == 2
    assert [entry["position"] for entry in how["negatives"]] == [0, 1]
    assert {entry["origin"] for entry in how["negatives"]} == {"real"}
    assert {*how["software"]} >= {"factory", "torch", "transformers"}
    assert how["dtype"] == "float32"
    for digest in (pair["base"]["sha256"], pair["expert"]["sha256"], pair["tokenizer"]["sha256"]):
        assert len(bytes.fromhex(digest)) == 32
    assert pair["base"]["sha256"] != pair["expert"]["sha256"]


def test_the_recorded_negatives_are_those_in_the_request_in_order(
    floor: Floor, gpu: GpuWorker, requested: list[Any]
) -> None:
    texts = add_real(floor, "bae bai", "duo dul kis", "kis kim", "rol ros ron")
    job = floor.submit(6, 6, negatives={**NEGATIVES, "count": 3}, audit=0.34)
    run_all(floor, gpu, job)
    made = floor.samples(job)
    pair = gpu.pairs.load(floor.model)
    lists = Layout(pair.tokenizer, PROMPT)
    assert len(requested) == len(made)
    for sample, request in zip(made, requested, strict=True):
        recorded = [texts[id_] for id_ in floor.negative_ids(sample)]
        expected = lists.list_ids(recorded) + lists.prompt_ids()[1:] if recorded else ()
        assert tuple(request.negative_ids) == expected
        assert request.seed == sample.seed
        assert tuple(request.center_ids) == ()
    with_none = [sample for sample in made if not floor.negative_ids(sample)]
    assert [s.ordinal for s in with_none] == [s.ordinal for s in made if s.audit] == [2, 5]


def test_a_fresh_dataset_has_nothing_to_push_from_and_then_its_own_output(
    floor: Floor, gpu: GpuWorker, requested: list[Any]
) -> None:
    spec = {"negatives": {"count": 2, "group": 1}, "audit": 0}
    run_all(floor, gpu, floor.submit(4, 4, **spec))
    assert [request.negative_ids for request in requested] == [()] * 4
    second = floor.submit(4, 4, **spec)
    run_all(floor, gpu, second)
    assert all(len(floor.negative_ids(sample)) == 2 for sample in floor.samples(second))


def test_documents_that_do_not_fit_are_left_out_whole(
    floor: Floor, gpu: GpuWorker, requested: list[Any]
) -> None:
    add_real(floor, " ".join(["bae"] * 200), " ".join(["duo"] * 201))
    job = floor.submit(2, 2, negatives=NEGATIVES, audit=0)
    assert run_all(floor, gpu, job).state == "succeeded"
    assert [request.negative_ids for request in requested] == [(), ()]
    assert [floor.negative_ids(sample) for sample in floor.samples(job)] == [[], []]


def test_the_centre_goes_with_its_negatives(
    floor: Floor, gpu: GpuWorker, requested: list[Any]
) -> None:
    first = floor.submit(4, 4, audit=0, sampling={"stop": ()})
    run_all(floor, gpu, first)
    with floor.database.transaction() as session:
        made = [session.get_one(Sample, sample.id) for sample in floor.samples(first)]
        for i, (sample, state) in enumerate(
            zip(made, ("rejected", "accepted", "accepted", "in_review"), strict=True)
        ):
            sample.state = state
            sample.embedding = [1.0, float(i), *([0.0] * 382)]
    requested.clear()
    negatives = {"count": 1, "sources": {"rejected": 1}, "center": True}
    second = floor.submit(2, 2, negatives=negatives, audit=0)
    run_all(floor, gpu, second)
    for sample in floor.samples(second):
        assert floor.negative_ids(sample) == [made[0].id]
        assert floor.negative_ids(sample, "center") == [made[1].id]
    assert all(request.center_ids for request in requested)


def test_a_resumed_shard_makes_just_what_is_missing(
    floor: Floor, gpu: GpuWorker, requested: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = floor.submit(12, 12, audit=0)
    after(monkeypatch, 5, gpu.shutdown.set)
    run_all(floor, gpu, job)
    (shard,) = floor.shards(job)
    assert (shard.state, shard.crashes) == ("pending", 0)
    before = {sample.ordinal: sample.id for sample in floor.samples(job)}
    assert len(before) >= 5
    requested.clear()
    gpu.shutdown.clear()
    assert run_all(floor, gpu, job).state == "succeeded"
    assert len(requested) == 12 - len(before)
    now = {sample.ordinal: sample.id for sample in floor.samples(job)}
    assert sorted(now) == list(range(12))
    assert before.items() <= now.items()


def test_what_a_shard_makes_does_not_depend_on_where_it_was_stopped(
    floor: Floor, gpu: GpuWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = {"audit": 1, "seed": 11}
    whole, parted = floor.submit(8, 8, **spec), floor.submit(8, 3, **spec)
    run_all(floor, gpu, whole)
    after(monkeypatch, 2, gpu.shutdown.set)
    run_all(floor, gpu, parted)
    gpu.shutdown.clear()
    run_all(floor, gpu, parted)
    texts = [[sample.text for sample in floor.samples(job)] for job in (whole, parted)]
    assert texts[0] == texts[1]


def test_a_worker_that_lost_its_lease_stores_nothing_more(
    floor: Floor, gpu: GpuWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = floor.submit(40, 40, audit=0)
    (shard,) = floor.shards(job)
    taken: list[shards.Lease] = []

    def take_over() -> None:
        with floor.database.transaction() as session:
            session.get_one(Shard, shard.id).state = "pending"
        with floor.database.transaction() as session:
            lease = shards.claim(session, shard.id, "another", 30)
            assert lease is not None
            taken.append(lease)
            taken_at.append(len(floor.samples(job)))

    taken_at: list[int] = []
    after(monkeypatch, 7, take_over)
    gpu.run_shard(shard.id)
    assert len(floor.samples(job)) == taken_at[0] < 40
    (now,) = floor.shards(job)
    assert (now.state, now.fence, now.worker, now.crashes) == ("leased", 2, "another", 0)
    assert floor.job(job).state == "running"


@pytest.mark.parametrize(("change", "ends"), [("cancel", "cancelled"), ("pause", "paused")])
def test_a_stopped_job_is_left_within_one_batch(
    floor: Floor, gpu: GpuWorker, monkeypatch: pytest.MonkeyPatch, change: str, ends: str
) -> None:
    job = floor.submit(60, 60, audit=0)

    def stop() -> None:
        with floor.database.transaction() as session:
            getattr(jobs, change)(session, job.id)

    after(monkeypatch, 10, stop)
    assert run_all(floor, gpu, job).state == ends
    assert 9 <= len(floor.samples(job)) <= 10 + floor.settings.commit_batch + gpu.settings.slots
    (shard,) = floor.shards(job)
    assert (shard.state, shard.crashes) == ("pending", 0)


def test_a_pause_is_seen_while_a_long_text_is_made(
    floor: Floor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The heartbeat hears of it; no row has to end first."""
    gpu = GpuWorker(floor.settings, floor.database)
    job = floor.submit(4, 4, audit=0, sampling={"max_new_tokens": 100, "stop": ()})
    tokens, choose = [0], Chooser.choose

    def count_and_wait(self: Any, *arguments: Any) -> Any:
        tokens[0] += 1
        if tokens[0] == 8:
            with floor.database.transaction() as session:
                jobs.pause(session, job.id)
            threading.Event().wait(1)
        return choose(self, *arguments)

    monkeypatch.setattr(Chooser, "choose", count_and_wait)
    run_all(floor, gpu, job)
    assert tokens[0] == 8
    assert floor.samples(job) == []
    assert [shard.state for shard in floor.shards(job)] == ["pending"]


def test_a_text_ends_before_its_stop_string(floor: Floor, gpu: GpuWorker) -> None:
    stop = ["bae", "lo"]
    job = floor.submit(24, 24, audit=1, sampling={"stop": stop, "max_new_tokens": 40})
    run_all(floor, gpu, job)
    made = floor.samples(job)
    assert any(sample.finish_reason == "stop" for sample in made)
    for sample in made:
        assert not any(mark in sample.text for mark in stop)


def test_a_text_without_words_is_filtered_and_keeps_its_ordinal(
    floor: Floor, gpu: GpuWorker
) -> None:
    every = [f"{a}{b}" for a in ("ba", "du", "ki", "lo", "me", "ro") for b in "aeiouslmn"]
    stop = sorted({word[0] for word in every})[:8]
    job = floor.submit(12, 12, audit=1, sampling={"stop": stop})
    assert run_all(floor, gpu, job).state == "succeeded"
    empty = [sample for sample in floor.samples(job) if not sample.text.strip()]
    assert empty
    assert {(sample.state, sample.filter_reason) for sample in empty} == {("filtered", "empty")}
    with floor.database.transaction() as session:
        pushed = set(session.scalars(select(Push.sample_id)))
    assert pushed.isdisjoint(sample.id for sample in empty)


def test_a_row_of_nonsense_numbers_is_a_failure_and_the_others_are_made(
    floor: Floor, gpu: GpuWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = floor.submit(6, 6, audit=1)
    bad = generate.row_seed(7, 2)
    choose = Chooser.choose

    @torch.inference_mode()
    def spoiled(self: Any, running: Any, logits: Any) -> Any:
        for slot, sample in running.items():
            if sample.request.seed == bad and len(sample.tokens) == 3:
                logits["expert"][slot] = float("nan")
        return choose(self, running, logits)

    monkeypatch.setattr(Chooser, "choose", spoiled)
    ended = run_all(floor, gpu, job)
    assert (ended.state, ended.error) == ("partial", "1 samples could not be made")
    assert [sample.ordinal for sample in floor.samples(job)] == [0, 1, 3, 4, 5]
    with floor.database.transaction() as session:
        failure = session.scalars(select(Failure).where(Failure.job_id == job.id)).one()
    assert failure.ordinal == 2
    assert "not finite" in failure.error


def test_a_missing_model_ends_the_job_and_says_what_where_and_how(
    floor: Floor, gpu: GpuWorker
) -> None:
    shutil.rmtree(floor.model.expert)
    ended = run_all(floor, gpu, floor.submit(2, 1))
    assert ended.state == "failed"
    assert floor.model.expert in (ended.error or "")
    assert len(ended.error or "") > len(floor.model.expert) + 20
    assert all(shard.state == "pending" for shard in floor.shards(ended))


@pytest.mark.parametrize("part", ["base", "expert"])
def test_a_damaged_model_ends_the_job_and_the_worker_goes_on(
    floor: Floor, gpu: GpuWorker, part: str
) -> None:
    file = Path(getattr(floor.model, part)) / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    ended = run_all(floor, gpu, floor.submit(2, 1))
    assert ended.state == "failed"
    assert str(file.parent) in (ended.error or "")
    file.write_bytes(whole)
    assert run_all(floor, gpu, floor.submit(2, 1)).state == "succeeded"


@dataclass
class Memory:
    """A device on which `fits` rows fit: the decoder of a larger batch fails in its middle."""

    fits: int
    after: int = 2  # texts are finished before it is full
    tried: list[int] = field(default_factory=list)

    def limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        run = SteerDecoder.run

        def limited(decoder: SteerDecoder, requests: Any) -> Iterator[Any]:
            self.tried.append(decoder._slots)
            for number, completion in enumerate(run(decoder, requests)):
                if decoder._slots > self.fits and number == self.after:
                    raise torch.OutOfMemoryError("CUDA out of memory.")
                yield completion

        monkeypatch.setattr(SteerDecoder, "run", limited)


def test_slots_are_halved_until_they_fit_and_nothing_is_lost(
    floor: Floor, gpu: GpuWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(fits=1)
    memory.limit(monkeypatch)
    job = floor.submit(9, 9)
    ended = run_all(floor, gpu, job)
    assert ended.state == "succeeded"
    assert memory.tried == [4, 2, 1]
    made = floor.samples(job)
    assert [sample.ordinal for sample in made] == list(range(9))
    with floor.database.transaction() as session:
        slots = [samples.provenance(session, sample.id)["slots"] for sample in made]
    assert sorted(slots, reverse=True) == [4, 4, 2, 2, 1, 1, 1, 1, 1]
    assert floor.shards(job)[0].crashes == 0
    run_all(floor, gpu, floor.submit(1, 1))
    assert memory.tried[-1] == 1


def test_slots_that_fit_are_planned_once_for_a_job_and_said(
    floor: Floor, gpu: GpuWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Little memory is free at the job's first shard, much later on: the plan stays."""
    settings = floor.settings.model_copy(update={"slots": "auto"})
    worker = replace(gpu, settings=settings)
    memory = Memory(fits=99)
    memory.limit(monkeypatch)
    first, second = floor.submit(20, 10), floor.submit(12, 6)
    composer = Composer(job_spec.validate_python(first.spec), worker.pairs.load(floor.model))
    little = next(n for n in range(0, 2**30, 10_000) if composer.slots(n) == 5)
    free = iter([little, 2**40])
    monkeypatch.setattr(gpu_worker, "free_bytes", lambda _: next(free))
    for job in (first, second):
        assert run_all(floor, worker, job).state == "succeeded"
    assert memory.tried == [5, 5, 6, 6]  # all of a shard, where memory does not say less
    with floor.database.transaction() as session:
        said = [samples.provenance(session, s.id)["slots"] for s in floor.samples(first)]
    assert said == [5] * 20


def test_what_does_not_fit_at_all_fails_the_job_and_says_how_to_mend(
    floor: Floor, gpu: GpuWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    Memory(fits=0).limit(monkeypatch)
    ended = run_all(floor, gpu, floor.submit(20, 20))
    assert ended.state == "failed"
    assert "smaller model" in (ended.error or "")
    assert len(floor.samples(ended)) == 6


@pytest.mark.parametrize("library", [ctypes.CDLL, ctypes.PyDLL], ids=["waits", "holds the GIL"])
def test_a_worker_that_is_stuck_is_ended_and_its_shard_made_by_another(
    floor: Floor, monkeypatch: pytest.MonkeyPatch, library: Any
) -> None:
    settings = floor.settings.model_copy(update={"stall_seconds": 1, "lease_seconds": 1})
    job = floor.submit(4, 4)
    (shard,) = floor.shards(job)

    def work() -> None:
        floor.database.engine.dispose(close=False)
        monkeypatch.setattr(generate, "_finished", lambda *_: library(None).sleep(600))
        GpuWorker(settings, floor.database).run_shard(shard.id)

    stuck = multiprocessing.get_context("fork").Process(target=work)
    stuck.start()
    stuck.join(60)
    assert stuck.exitcode == 1
    freed: list[uuid.UUID] = []
    while not freed:
        with floor.database.transaction() as session:
            freed = list(shards.reap(session, 3))
    gpu = GpuWorker(floor.settings, floor.database)
    assert run_all(floor, gpu, job).state == "succeeded"


def test_changed_weights_are_refused_until_the_old_ones_are_back(
    floor: Floor, gpu: GpuWorker
) -> None:
    assert run_all(floor, gpu, floor.submit(1, 1)).state == "succeeded"
    file = Path(floor.model.expert) / "model.safetensors"
    old = file.read_bytes()
    weights = load_file(file)
    name = next(iter(weights))
    weights[name] = weights[name] + 1
    save_file(weights, file, metadata={"format": "pt"})
    other = GpuWorker(floor.settings, floor.database)
    refused = run_all(floor, other, floor.submit(1, 1))
    assert refused.state == "failed"
    assert "have changed since they were first used" in (refused.error or "")
    file.write_bytes(old)
    assert run_all(floor, other, floor.submit(1, 1)).state == "succeeded"


def test_a_prompt_that_does_not_fit_fails_the_job(floor: Floor, gpu: GpuWorker) -> None:
    ended = run_all(floor, gpu, floor.submit(1, 1, prompt="bae " * 200))
    assert ended.state == "failed"
    assert "128 positions" in (ended.error or "")


def test_a_worker_that_breaks_tries_again_and_gives_up(
    floor: Floor, gpu: GpuWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("no memory")

    monkeypatch.setattr(generate, "_finished", broken)
    job = floor.submit(2, 2)
    for crashes in (1, 2, 3):
        run_all(floor, gpu, job)
        assert floor.shards(job)[0].crashes == crashes
    ended = floor.job(job)
    assert ended.state == "failed"
    assert "RuntimeError: no memory (3 attempts)" in (ended.error or "")


def test_a_job_says_when_eta_had_nothing_to_push_from(floor: Floor, gpu: GpuWorker) -> None:
    job = run_all(floor, gpu, floor.submit(5, audit=0.2, guidance={"eta": 0.5}))
    assert job.result is not None
    assert job.result["without_negatives"] == 4
    assert "nothing to push from" in job.result["note"]


def test_a_job_whose_samples_were_all_steered_says_so_with_zero(
    floor: Floor, gpu: GpuWorker
) -> None:
    add_real(floor, "ba du", "ki lo")
    job = run_all(floor, gpu, floor.submit(5, guidance={"eta": 0.5}, negatives=NEGATIVES))
    assert job.result == {"without_negatives": 0, "note": None}
