"""The lever `adapters` on a real database and a tiny LoRA expert: fitted, at work, replayed."""

import shutil
import time
from pathlib import Path
from threading import Thread
from typing import Any

import peft
import pytest
import torch
from sqlalchemy import func, select
from transformers import AutoModelForCausalLM, AutoTokenizer

from factory import datasets, jobs, levers, requests
from factory.db import Database
from factory.errors import FactoryError, NumericalError
from factory.feedback import Feedback, Levers
from factory.settings import Settings
from factory.spec import GenerateSpec
from factory.tables import FittedLever
from workers.generate import Composer
from workers.gpu_worker import GpuWorker
from workers.levers.sanity import FOLDS
from workers.pairs import LoadedPair
from workers.training.tuner import Tuner

from .factory_floor import PROMPT, Floor, open_floor
from .test_levers import (
    HEAD,
    NO_LEVER,
    PLAIN,
    is_about,
    make,
    provenance,
    replay,
    review,
    rounds,
    share,
    tokens,
)

ADAPTERS = {"weight": 4.0, "cap": 3.0, "steps": 60, "learning_rate": 0.01}
FEEDBACK: dict[str, Any] = {"levers": {"adapters": ADAPTERS}}
ENDLESS: dict[str, Any] = {"levers": {"adapters": {**ADAPTERS, "steps": 10_000}}}


@pytest.fixture(scope="module")
def lora_folder(pair_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base, with a random LoRA adapter as its expert."""
    folder = tmp_path_factory.mktemp("lora")
    shutil.copytree(pair_folder / "base", folder / "base")
    torch.manual_seed(6)
    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False
    )
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "base"), config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.05)
    adapted.save_pretrained(folder / "expert")
    AutoTokenizer.from_pretrained(folder / "base").save_pretrained(folder / "expert")
    return folder


@pytest.fixture
def floor(settings: Settings, database: Database, lora_folder: Path) -> Floor:
    return open_floor(settings, database, lora_folder)


@pytest.fixture
def gpu(floor: Floor) -> GpuWorker:
    return GpuWorker(floor.settings, floor.database)


@pytest.fixture(scope="module")
def taught(settings: Settings, database: Database, lora_folder: Path) -> tuple[Floor, GpuWorker]:
    """A floor with a reviewed round, and its worker, for tests that add no verdict."""
    floor = open_floor(settings, database, lora_folder)
    gpu = GpuWorker(settings, database)
    rounds(floor, gpu)
    return floor, gpu


def test_a_rejected_theme_gets_rare_and_audit_rows_stay_as_they_are(
    taught: tuple[Floor, GpuWorker],
) -> None:
    floor, gpu = taught
    control = make(floor, gpu, 100, audit=0.2, seed=2, feedback=NO_LEVER)
    guided = make(floor, gpu, 100, audit=0.2, seed=2, feedback=FEEDBACK)
    before, after = ([sample for sample in made if not sample.audit] for made in (control, guided))
    assert share(after) < 0.5 * share(before)
    audits = [[s for s in made if s.audit] for made in (control, guided)]
    assert tokens(floor, audits[0]) == tokens(floor, audits[1])
    [use] = provenance(floor, after[0])["levers"]
    assert (use["name"], use["weight"], use["cap"], use["verdicts"]) == ("adapters", 4.0, 3.0, 120)
    assert len(bytes.fromhex(use["digest"])) == 32
    assert provenance(floor, audits[1][0])["levers"] == []
    assert all(replay(floor, gpu, sample)["identical"] for sample in (*after[:4], *audits[1][:2]))

    with floor.database.transaction() as session:
        dataset = datasets.get(session, floor.dataset.name)
        datasets.set_feedback(dataset, Feedback.model_validate(FEEDBACK))
        [fit] = levers.state(session, dataset)["fitted"]
    assert (fit.name, fit.digest) == ("adapters", use["digest"])
    assert fit.result["auroc"] > fit.result["needed"]


def test_what_was_fitted_is_used_again_and_given_up_when_it_no_longer_acts(
    taught: tuple[Floor, GpuWorker],
) -> None:
    floor, gpu = taught
    made = [make(floor, gpu, 4, audit=0, seed=3, feedback=FEEDBACK) for _ in range(2)]
    assert tokens(floor, made[0]) == tokens(floor, made[1])
    fits = [provenance(floor, of[0])["levers"][0] for of in made]
    assert fits[0] == fits[1]
    assert pair_of(floor, gpu).models.rows.attached == fits[0]["digest"]
    make(floor, gpu, 2, audit=0, seed=3, feedback=NO_LEVER)
    assert pair_of(floor, gpu).models.rows.attached == ""


def test_replay_and_explanation_use_what_acted_then(floor: Floor, gpu: GpuWorker) -> None:
    first = rounds(floor, gpu)
    made = make(floor, gpu, 8, audit=0.25, seed=3, feedback=FEEDBACK)
    review(floor, first, lambda sample: not is_about(sample))  # a change of mind
    later = make(floor, gpu, 8, audit=0.25, seed=3, feedback=FEEDBACK)
    digests = [provenance(floor, of[0])["levers"][0]["digest"] for of in (made, later)]
    assert None not in digests
    assert digests[0] != digests[1]
    assert tokens(floor, made) != tokens(floor, later)
    for sample in (*made, *later):
        assert replay(floor, gpu, sample)["identical"], sample.ordinal

    ask = floor.ask("explanation", sample=str(made[0].id))
    gpu.desk.serve_all()
    result = floor.answer(ask).result
    assert result is not None
    assert any(token["adapters"] for token in result["tokens"])
    for token in result["tokens"]:
        assert token["verdict_head"] is None
        assert token["score"] == pytest.approx(token["expert"] + token["adapters"], abs=1e-4)


def test_it_acts_beside_the_other_levers(taught: tuple[Floor, GpuWorker]) -> None:
    floor, gpu = taught
    setting = {"levers": {"negatives": {}, "verdict_head": HEAD, "adapters": ADAPTERS}}
    job = floor.submit(12, guidance={"eta": 0.5, "gamma": 0.2}, audit=0.25, feedback=setting)
    for shard in floor.shards(job):
        gpu.run_shard(shard.id)
    made = floor.samples(job)
    guided = next(sample for sample in made if not sample.audit)
    names = [use["name"] for use in provenance(floor, guided)["levers"]]
    assert names == ["negatives", "verdict_head", "adapters"]
    assert floor.negative_ids(guided)
    assert all(replay(floor, gpu, sample)["identical"] for sample in made)
    ask = floor.ask("explanation", sample=str(guided.id))
    gpu.desk.serve_all()
    result = floor.answer(ask).result
    assert result is not None
    for name in ("verdict_head", "adapters", "negative", "base"):
        assert all(token[name] is not None for token in result["tokens"])


def test_an_expert_of_full_weights_is_left_as_it_is(
    settings: Settings, database: Database, pair_folder: Path
) -> None:
    floor, gpu = open_floor(settings, database, pair_folder), GpuWorker(settings, database)
    rounds(floor, gpu)
    control = make(floor, gpu, 6, audit=0, seed=4, feedback=NO_LEVER)
    same = make(floor, gpu, 6, audit=0, seed=4, feedback=FEEDBACK)
    assert tokens(floor, same) == tokens(floor, control)
    [use] = provenance(floor, same[0])["levers"]
    assert (use["digest"], use["weight"]) == (None, 0.0)
    assert use["note"].startswith("it needs an expert that is a LoRA adapter of its base")
    assert replay(floor, gpu, same[0])["identical"]
    assert set(Composer(spec_of(floor), pair_of(floor, gpu)).lengths()) == {"expert", "base"}


def test_memory_is_planned_for_two_streams_more(taught: tuple[Floor, GpuWorker]) -> None:
    floor, gpu = taught
    lengths = Composer(spec_of(floor), pair_of(floor, gpu)).lengths()
    assert lengths["accepted"] == lengths["rejected"] == lengths["expert"]
    plain = spec_of(floor).model_copy(update={"feedback": Feedback(levers=Levers())})
    assert set(Composer(plain, pair_of(floor, gpu)).lengths()) == {"expert", "base"}


def test_verdicts_without_sense_move_nothing(floor: Floor, gpu: GpuWorker) -> None:
    made = make(floor, gpu, 60, audit=0, seed=5, feedback=NO_LEVER)
    review(floor, made, lambda sample: (sample.seed or 0) % 2 == 0)
    control = make(floor, gpu, 8, audit=0, seed=6, feedback=NO_LEVER)
    same = make(floor, gpu, 8, audit=0, seed=6, feedback=FEEDBACK)
    assert tokens(floor, same) == tokens(floor, control)
    [use] = provenance(floor, same[0])["levers"]
    assert (use["digest"], use["weight"]) == (None, 0.0)
    assert "no better than shuffled ones" in use["note"]


def test_too_few_verdicts_are_said(floor: Floor, gpu: GpuWorker) -> None:
    made = make(floor, gpu, 4, audit=0, seed=5, feedback=FEEDBACK)
    [use] = provenance(floor, made[0])["levers"]
    assert use["weight"] == 0.0
    assert use["note"] == (
        "10 accepted and 10 rejected samples are needed; the window holds 0 and 0"
    )


def test_adapters_that_are_gone_or_changed_are_not_replayed_with(
    taught: tuple[Floor, GpuWorker],
) -> None:
    floor, gpu = taught
    sample = make(floor, gpu, 2, audit=0, seed=4, feedback=FEEDBACK)[0]
    digest = provenance(floor, sample)["levers"][0]["digest"]
    file = floor.settings.models_dir / "levers" / f"{digest}.safetensors"
    content = file.read_bytes()
    for harm, told in (
        (lambda: file.write_bytes(content[:-1] + b"x"), "has changed"),
        (lambda: file.unlink(), "cannot be read"),
    ):
        harm()
        ask = floor.ask("replay", sample=str(sample.id))
        gpu.desk.serve_all()
        error = floor.answer(ask).error
        assert error is not None
        assert told in error["detail"]
    job = floor.submit(2, audit=0, feedback=FEEDBACK)
    for shard in floor.shards(job):
        gpu.run_shard(shard.id)
    assert "cannot be read" in str(floor.job(job).error)
    file.write_bytes(content)
    assert replay(floor, gpu, sample)["identical"]


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "takes more memory than the device has"),
        (NumericalError("the training loss is nan at step 3"), "loss is nan at step 3"),
    ],
)
def test_samples_are_made_all_the_same_where_tuning_fails(
    error: Exception, told: str, floor: Floor, gpu: GpuWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> Tuner:
        raise error

    rounds(floor, gpu)
    monkeypatch.setattr(Tuner, "load", fail)
    made = make(floor, gpu, 2, audit=0, seed=4, feedback=FEEDBACK)
    [use] = provenance(floor, made[0])["levers"]
    assert (use["digest"], use["weight"]) == (None, 0.0)
    assert told in use["note"]


def test_a_fit_tells_at_each_step_that_it_goes_on(floor: Floor, gpu: GpuWorker) -> None:
    """So that neither its lease nor the watchdog ends a worker that is at it."""
    rounds(floor, gpu)
    steps = [0]

    def watch() -> None:
        steps[0] += 1

    spec = spec_of(floor)
    acting = gpu.bench.ready(floor.dataset.id, spec, pair_of(floor, gpu), watch=watch)
    assert acting.adapters is not None
    assert steps[0] >= 2 * (FOLDS + 1) * ADAPTERS["steps"] + 2 * 120
    gpu.bench.ready(floor.dataset.id, spec, pair_of(floor, gpu), watch=pytest.fail)


def test_a_job_that_is_cancelled_ends_the_fit_it_is_at(floor: Floor, gpu: GpuWorker) -> None:
    rounds(floor, gpu)
    job = floor.submit(4, audit=0, feedback=ENDLESS)
    [shard] = floor.shards(job)
    worker = Thread(target=gpu.run_shard, args=(shard.id,))
    worker.start()
    while floor.shards(job)[0].state != "leased":
        time.sleep(0.05)
    with floor.database.transaction() as session:
        jobs.cancel(session, job.id)
    worker.join()
    assert floor.job(job).state == "cancelled"
    assert not floor.samples(job)
    assert fits_of(floor) == 0


def test_a_preview_that_tunes_is_left_owed_by_a_worker_that_is_told_to_stop(
    floor: Floor, gpu: GpuWorker
) -> None:
    rounds(floor, gpu)
    ask = floor.ask("preview", spec=spec_of(floor, ENDLESS).model_dump(mode="json"))
    worker = Thread(target=gpu.desk.serve_all)
    worker.start()
    while floor.answer(ask).attempts == 0:
        time.sleep(0.05)
    gpu.shutdown.set()
    worker.join()
    request = floor.answer(ask)
    assert (request.done_at, request.attempts) == (None, 0)
    assert fits_of(floor) == 0
    with floor.database.transaction() as session:  # or the next test would wait for it
        requests.refuse(session, session.merge(request), FactoryError("Nobody waits for it."))


def test_a_preview_shows_what_they_do(taught: tuple[Floor, GpuWorker]) -> None:
    floor, gpu = taught
    ask = floor.ask("preview", spec=spec_of(floor).model_dump(mode="json"))
    gpu.desk.serve_all()
    answer = floor.answer(ask)
    assert answer.result is not None, answer.error
    sides = [[text["text"] for text in answer.result[of]] for of in ("unguided", "guided")]
    plain = make(floor, gpu, 12, audit=0, seed=7, feedback=NO_LEVER)
    assert sides[0] == [sample.text for sample in plain]
    assert sides[1] != sides[0]


def pair_of(floor: Floor, gpu: GpuWorker) -> LoadedPair:
    return gpu.pairs.load(floor.model)


def spec_of(floor: Floor, feedback: dict[str, Any] = FEEDBACK) -> GenerateSpec:
    return GenerateSpec(
        kind="generate",
        dataset=floor.dataset.name,
        model=floor.model.name,
        count=12,
        seed=7,
        prompt=PROMPT,
        sampling={"max_new_tokens": 12},
        guidance=PLAIN,
        negatives={"count": 0},
        feedback=feedback,
    )


def fits_of(floor: Floor) -> int:
    with floor.database.transaction() as session:
        found = select(func.count()).where(FittedLever.dataset_id == floor.dataset.id)
        return session.scalar(found) or 0
