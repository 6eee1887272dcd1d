"""What people wait for: replay, explanation and preview, on a tiny random pair."""

import math
import multiprocessing
import os
import signal
import uuid
from typing import Any

import pytest
from sqlalchemy import delete, func, select, text, update

from factory import datasets, samples
from factory.ids import new_id
from factory.tables import Outbox, Request, Sample, SampleNegative
from workers import interactive
from workers.gpu_worker import GpuWorker

from .factory_floor import Floor

GUIDED = {"gamma": 0.4, "eta": 0.5, "nucleus": 1.0}
STEERED = {"negatives": {"count": 2, "sources": {"real": 1}, "group": 1}, "guidance": GUIDED}
STREAMS = ("base", "negative", "center")


@pytest.fixture
def gpu(floor: Floor) -> GpuWorker:
    return GpuWorker(floor.settings, floor.database)


def made(floor: Floor, gpu: GpuWorker, count: int = 4, **spec: Any) -> list[Sample]:
    add_real(floor)
    job = floor.submit(count, count, **spec)
    for shard in floor.shards(job):
        gpu.run_shard(shard.id)
    return floor.samples(job)


def add_real(floor: Floor) -> None:
    lines = [b'{"text": "%s"}' % words for words in (b"bae bai", b"duo dul", b"kis kim", b"mel")]
    with floor.database.transaction() as session:
        datasets.import_lines(session, floor.dataset, lines)


def answer(floor: Floor, gpu: GpuWorker, kind: str, **payload: Any) -> dict[str, Any]:
    ask = floor.ask(kind, **payload)
    gpu.desk.serve_all()
    done = floor.answer(ask)
    assert done.error is None, done.error
    assert done.result is not None
    return done.result


def unguarded(floor: Floor, statement: Any) -> None:
    """Change what the database would not let be changed."""
    with floor.database.transaction() as session:
        session.execute(text("ALTER TABLE samples DISABLE TRIGGER keep_samples"))
        session.execute(statement)
        session.execute(text("ALTER TABLE samples ENABLE TRIGGER keep_samples"))


def test_a_replay_makes_the_same_tokens(floor: Floor, gpu: GpuWorker) -> None:
    for sample in made(floor, gpu, audit=0.3, **STEERED):
        replayed = answer(floor, gpu, "replay", sample=str(sample.id))
        assert replayed == {
            "identical": True,
            "text": sample.text,
            "expected": sample.text,
            "first_difference": None,
        }


def test_a_replay_runs_documents_as_they_were_run(floor: Floor, gpu: GpuWorker) -> None:
    """Apart, where the job says so: recorded for each sample, but for those with no negatives."""
    negatives = {**STEERED["negatives"], "count": 3, "kv": "concatenated"}
    rows = made(floor, gpu, audit=0.3, **{**STEERED, "negatives": negatives})
    kept = len(gpu.pairs.load(floor.model).documents)
    assert kept > 1
    for sample in rows:
        with floor.database.transaction() as session:
            how = samples.provenance(session, sample.id)
        assert how["kv"] == ("concatenated" if how["negatives"] else "joint")
        assert sample.audit != bool(how["negatives"])
        assert answer(floor, gpu, "replay", sample=str(sample.id))["identical"] is True


@pytest.mark.parametrize("preset", ["avoidance", "correlated"])
def test_a_replay_under_rules_that_look_at_other_samples(
    floor: Floor, gpu: GpuWorker, preset: str
) -> None:
    """They depend on recorded samples only, so each sample is made again alone."""
    negatives = {"count": 3, "sources": {"real": 1}, "center": True}
    rows = made(floor, gpu, audit=0, preset=preset, negatives=negatives)
    used = {"avoidance": 3, "correlated": 1}[preset]
    assert [len(floor.negative_ids(sample)) for sample in rows] == [used] * len(rows)
    assert not any(floor.negative_ids(sample, "center") for sample in rows)
    for sample in rows:
        assert answer(floor, gpu, "replay", sample=str(sample.id))["identical"] is True
        explained = answer(floor, gpu, "explanation", sample=str(sample.id))["tokens"]
        assert all(token["negative"] is not None for token in explained)


def test_a_replay_after_tampering_says_where_it_differs(floor: Floor, gpu: GpuWorker) -> None:
    sample = made(floor, gpu, 1, audit=0, **STEERED)[0]
    unguarded(floor, update(Sample).where(Sample.id == sample.id).values(seed=12345))
    replayed = answer(floor, gpu, "replay", sample=str(sample.id))
    assert replayed["identical"] is False
    assert replayed["expected"] == sample.text
    difference = replayed["first_difference"]
    assert difference["expected"] != difference["made"]
    assert 0 <= difference["position"] < 12
    assert difference["expected_score"] is None or difference["expected_score"] < 5
    assert math.isfinite(difference["made_score"])


def test_a_replay_with_other_negatives_is_not_the_same(floor: Floor, gpu: GpuWorker) -> None:
    rows = made(
        floor,
        gpu,
        8,
        audit=0,
        guidance={"eta": 3.0, "nucleus": 1.0},
        negatives={"count": 2, "sources": {"real": 1}, "group": 1},
    )
    ids = [row.id for row in rows]
    with floor.database.transaction() as session:
        session.execute(delete(SampleNegative).where(SampleNegative.sample_id.in_(ids)))
    same = [answer(floor, gpu, "replay", sample=str(id_))["identical"] for id_ in ids]
    assert not all(same)


@pytest.mark.parametrize("stored", [True, False])
def test_an_explanation_gives_each_token_its_streams(
    floor: Floor, gpu: GpuWorker, stored: bool
) -> None:
    sample = made(floor, gpu, 2, audit=0, trace=stored, **STEERED)[0]
    told = answer(floor, gpu, "explanation", sample=str(sample.id))
    assert told["sample"] == str(sample.id)
    assert len(told["tokens"]) == sample.token_count
    assert "".join(token["token"] for token in told["tokens"]).strip() == sample.text
    for token in told["tokens"]:
        assert token["center"] is None
        score = (
            token["expert"]
            + GUIDED["gamma"] * (token["expert"] - token["base"])
            - GUIDED["eta"] * (token["negative"] - token["expert"])
        )
        assert math.isclose(token["score"], score, abs_tol=1e-4)
        assert token["survivors"] >= 1


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("audit", [0, 1])
def test_an_explanation_names_the_likeliest_tokens_with_and_without_guidance(
    floor: Floor, gpu: GpuWorker, stored: bool, audit: int
) -> None:
    spec = STEERED | ({"guidance": {"gamma": 0.0, "eta": 0.5}} if audit else {})
    spec |= {"sampling": {"temperature": 0}}  # so that the likeliest is the one that is drawn
    sample = made(floor, gpu, 1, audit=audit, trace=stored, **spec)[0]
    told = answer(floor, gpu, "explanation", sample=str(sample.id))["tokens"]
    assert told
    for token in told:
        found = token["likeliest"]
        assert found["guided"][0]["token"] == token["token"]
        assert found["unguided"][0]["token"] == token["unguided"]
        assert found["drawn"]["guided"] == pytest.approx(
            found["guided"][0]["log_probability"], abs=1e-3
        )
        for side in ("guided", "unguided"):
            named = [each["log_probability"] for each in found[side]]
            assert len(named) == min(5, token["survivors"])
            assert named == sorted(named, reverse=True)
            assert sum(map(math.exp, named)) <= 1.001
        if audit:
            assert found["guided"] == found["unguided"]


@pytest.mark.parametrize("stored", [True, False])
def test_streams_that_were_not_run_are_null(floor: Floor, gpu: GpuWorker, stored: bool) -> None:
    """An audit row has no negatives; γ = 0 needs no base; nothing rejected: no centre."""
    spec = {**STEERED, "guidance": {"gamma": 0.0, "eta": 0.5}}
    audit = made(floor, gpu, 2, audit=1, trace=stored, **spec)[0]
    guided = made(floor, gpu, 2, audit=0, trace=stored, **spec)[0]
    for sample, run in ((audit, set()), (guided, {"negative"})):
        for token in answer(floor, gpu, "explanation", sample=str(sample.id))["tokens"]:
            assert {name for name in STREAMS if token[name] is not None} == run
            if sample is audit:
                assert token["token"] == token["unguided"]
                assert token["score"] == pytest.approx(token["expert"])


def test_a_preview_stores_nothing_and_pairs_the_seeds(floor: Floor, gpu: GpuWorker) -> None:
    add_real(floor)
    spec = {
        "kind": "generate",
        "dataset": floor.dataset.name,
        "model": floor.model.name,
        "count": 3,
        "seed": 5,
        "sampling": {"max_new_tokens": 8},
        **STEERED,
    }
    with floor.database.transaction() as session:
        before = session.scalar(select(func.count()).select_from(Sample))
    shown = answer(floor, gpu, "preview", spec=spec)
    with floor.database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Sample)) == before
    guided, unguided = shown["guided"], shown["unguided"]
    assert [row["seed"] for row in guided] == [row["seed"] for row in unguided]
    assert [len(row["negatives"]) for row in guided] == [2, 2, 2]
    assert [row["negatives"] for row in unguided] == [[], [], []]
    assert all(row["text"] for row in guided)


def test_a_preview_shows_what_is_made_so_far(
    floor: Floor, gpu: GpuWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_real(floor)
    spec = {"kind": "generate", "dataset": floor.dataset.name, "model": floor.model.name}
    spec |= {"count": 3, "seed": 5, "sampling": {"max_new_tokens": 8}, **STEERED}
    seen: list[dict[str, Any]] = []
    note = gpu.desk._note

    def watched(request_id: uuid.UUID, partial: dict[str, Any]) -> None:
        note(request_id, partial)
        with floor.database.transaction() as session:
            so_far = session.get_one(Request, request_id)
            assert so_far.done_at is None
            seen.append(so_far.result or {})

    monkeypatch.setattr(interactive, "NOTE_SECONDS", 0)
    monkeypatch.setattr(gpu.desk, "_note", watched)
    shown = answer(floor, gpu, "preview", spec=spec)
    lengths = [[[row["tokens"] for row in told[side]] for side in shown] for told in seen]
    assert lengths[0] == [[1, 1, 1], [1, 1, 1]]  # after the first token, of both sides
    totals = [sum(map(sum, sides)) for sides in lengths]
    assert totals == sorted(totals)
    for told in seen:
        for side, rows in told.items():
            whole = {row["ordinal"]: row["text"] for row in shown[side]}
            assert all(whole[row["ordinal"]].startswith(row["text"]) for row in rows)
            assert [row for row in rows if not row.get("partial")] == [
                row for row in shown[side] if row in rows
            ]
    assert not any(row.get("partial") for rows in shown.values() for row in rows)
    assert [row["ordinal"] for row in shown["guided"]] == [0, 1, 2]
    assert all(row["surprise"] > 0 for side in shown.values() for row in side)


@pytest.mark.parametrize(
    ("kind", "payload", "status"),
    [
        ("replay", {"sample": str(new_id())}, 404),
        ("explanation", {"sample": str(new_id())}, 404),
        ("preview", {"spec": {"kind": "generate", "dataset": "no", "model": "m", "count": 1}}, 404),
    ],
)
def test_what_cannot_be_answered_is_refused_with_its_reason(
    floor: Floor, gpu: GpuWorker, kind: str, payload: dict[str, Any], status: int
) -> None:
    ask = floor.ask(kind, **payload)
    gpu.desk.serve_all()
    done = floor.answer(ask)
    assert done.done_at is not None
    assert done.error is not None
    assert done.error["status"] == status
    assert done.error["detail"]


def test_a_request_is_answered_once_and_owed_no_more(floor: Floor, gpu: GpuWorker) -> None:
    sample = made(floor, gpu, 1)[0]
    ask = floor.ask("replay", sample=str(sample.id))
    gpu.desk.serve(ask.id)
    first = floor.answer(ask).done_at
    gpu.desk.serve(ask.id)
    assert floor.answer(ask).done_at == first
    with floor.database.transaction() as session:
        assert session.scalars(select(Outbox).where(Outbox.key == ask.id)).all() == []


def test_who_waits_is_served_before_the_next_shard(floor: Floor, gpu: GpuWorker) -> None:
    sample = made(floor, gpu, 1)[0]
    ask = floor.ask("replay", sample=str(sample.id))
    job = floor.submit(1, 1)
    gpu.run_shard(floor.shards(job)[0].id)
    answered = floor.answer(ask).done_at
    assert answered is not None
    assert answered <= floor.samples(job)[0].created_at


def test_a_request_that_kills_its_workers_is_refused_and_holds_nothing_up(
    floor: Floor, gpu: GpuWorker
) -> None:
    poison, job = floor.ask("preview", spec={}), floor.submit(2, 2)
    (shard,) = floor.shards(job)

    def work() -> None:
        floor.database.engine.dispose(close=False)
        gpu.desk._answer = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment, method-assign]
        gpu.run_shard(shard.id)

    for _ in range(2):
        worker = multiprocessing.get_context("fork").Process(target=work)
        worker.start()
        worker.join()
        assert worker.exitcode == -signal.SIGKILL
        assert floor.answer(poison).done_at is None
    after = floor.ask("preview", spec={})
    gpu.run_shard(shard.id)
    assert "2 workers began this" in (floor.answer(poison).error or {})["detail"]
    assert floor.answer(after).done_at is not None
    assert floor.job(job).state == "succeeded"


def test_only_one_worker_serves_a_request_at_a_time(floor: Floor, gpu: GpuWorker) -> None:
    ask = floor.ask("preview", spec={})
    with floor.database.only_one(f"request/{ask.id}") as mine:
        assert mine
        gpu.desk.serve_all()
        waiting = floor.answer(ask)
    assert (waiting.done_at, waiting.attempts) == (None, 0)
    gpu.desk.serve_all()
    assert floor.answer(ask).done_at is not None
