"""Levers on a real database and a tiny pair: fitted on reviews, at work, recorded, replayed."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from factory import datasets, jobs, levers, reviews, samples
from factory.db import Database
from factory.feedback import RECOMMENDED, Feedback, Window
from factory.settings import Settings
from factory.tables import Attempt, FittedLever, Job, Push, Review, Sample
from workers.gpu_worker import GpuWorker
from workers.levers import bench
from workers.metrics.variety import words

from .factory_floor import Floor, open_floor

HEAD = {"weight": 8.0, "cap": 3.0}
PLAIN = {"eta": 0.0, "nucleus": 1.0}
THEME = {"ron", "kis"}
NO_LEVER: dict[str, Any] = {"levers": {}}


@pytest.fixture
def gpu(floor: Floor) -> GpuWorker:
    return GpuWorker(floor.settings, floor.database)


@pytest.fixture(scope="module")
def taught(settings: Settings, database: Database, pair_folder: Path) -> tuple[Floor, GpuWorker]:
    """A floor with a reviewed round, and its worker, for tests that add no verdict."""
    floor = open_floor(settings, database, pair_folder)
    gpu = GpuWorker(settings, database)
    rounds(floor, gpu)
    return floor, gpu


def make(floor: Floor, gpu: GpuWorker, count: int, **spec: Any) -> list[Sample]:
    job = floor.submit(count, spec.pop("size", count), guidance=PLAIN, **spec)
    for shard in floor.shards(job):
        gpu.run_shard(shard.id)
    assert floor.job(job).state == "succeeded", floor.job(job).error
    return floor.samples(job)


def review(
    floor: Floor,
    made: Sequence[Sample],
    refuses: Callable[[Sample], bool],
    reasons: tuple[str, ...] = ("off_topic",),
) -> None:
    with floor.database.transaction() as session:
        first = (session.scalar(select(func.max(Review.annotation_id))) or 0) + 1
        for number, sample in enumerate(made, first):
            refused = refuses(sample)
            when = datetime.now(UTC)
            verdict = reviews.Verdict(
                annotation_id=number,
                task_id=number,
                verdict="reject" if refused else "accept",
                reasons=reasons if refused else (),
                rewrite=None,
                rating=None,
                reviewer="r",
                lead_seconds=None,
                created_at=when,
                updated_at=when,
            )
            reviews.apply(session, sample.id, verdict)


def add_real(floor: Floor, *texts: str) -> None:
    lines = [json.dumps({"text": text}).encode() for text in texts]
    with floor.database.transaction() as session:
        datasets.import_lines(session, floor.dataset, lines)


def provenance(floor: Floor, sample: Sample) -> dict[str, Any]:
    with floor.database.transaction() as session:
        return samples.provenance(session, sample.id)


def replay(floor: Floor, gpu: GpuWorker, sample: Sample) -> dict[str, Any]:
    ask = floor.ask("replay", sample=str(sample.id))
    gpu.desk.serve_all()
    answer = floor.answer(ask)
    assert answer.error is None, answer.error
    assert answer.result is not None
    return answer.result


def tokens(floor: Floor, made: Sequence[Sample]) -> list[list[int] | None]:
    with floor.database.transaction() as session:
        return [samples.get_synthetic(session, sample.id).token_ids for sample in made]


def is_about(sample: Sample) -> bool:
    """The rejected theme: a few words."""
    return not THEME.isdisjoint(sample.text.split())


def share(made: Sequence[Sample]) -> float:
    return sum(map(is_about, made)) / len(made)


def rounds(floor: Floor, gpu: GpuWorker) -> list[Sample]:
    """A reviewed round, made without feedback."""
    made = make(floor, gpu, 120, audit=0, seed=1, feedback=NO_LEVER)
    assert 0.2 < share(made) < 0.9
    review(floor, made, is_about)
    return made


def test_a_rejected_theme_gets_rare_and_audit_rows_stay_as_they_are(
    taught: tuple[Floor, GpuWorker],
) -> None:
    floor, gpu = taught
    control = make(floor, gpu, 100, audit=0.2, seed=2, feedback=NO_LEVER)
    guided = make(floor, gpu, 100, audit=0.2, seed=2, feedback={"levers": {"verdict_head": HEAD}})
    before, after = ([sample for sample in made if not sample.audit] for made in (control, guided))
    assert share(after) < 0.5 * share(before)
    assert [s.text for s in guided if s.audit] == [s.text for s in control if s.audit]
    audits = [[s for s in made if s.audit] for made in (control, guided)]
    assert tokens(floor, audits[0]) == tokens(floor, audits[1])

    used = provenance(floor, after[0])["levers"]
    assert [use["name"] for use in used] == ["verdict_head"]
    assert used[0]["weight"] == 8.0
    assert used[0]["verdicts"] == 120
    assert len(bytes.fromhex(used[0]["digest"])) == 32
    assert provenance(floor, audits[1][0])["levers"] == []
    assert provenance(floor, before[0])["levers"] == []


def test_replay_and_explanation_use_what_acted_then(floor: Floor, gpu: GpuWorker) -> None:
    first = rounds(floor, gpu)
    made = make(floor, gpu, 12, audit=0.25, seed=3, feedback={"levers": {"verdict_head": HEAD}})
    review(floor, first, lambda sample: not is_about(sample))  # a change of mind
    later = make(floor, gpu, 12, audit=0.25, seed=3, feedback={"levers": {"verdict_head": HEAD}})
    digests = [provenance(floor, of[0])["levers"][0]["digest"] for of in (made, later)]
    assert digests[0] != digests[1]
    assert tokens(floor, made) != tokens(floor, later)
    for sample in (*made, *later):
        assert replay(floor, gpu, sample)["identical"], sample.ordinal

    ask = floor.ask("explanation", sample=str(made[0].id))
    gpu.desk.serve_all()
    result = floor.answer(ask).result
    assert result is not None
    for token in result["tokens"]:
        assert token["verdict_head"] < 0
        assert token["score"] == pytest.approx(token["expert"] + token["verdict_head"], abs=1e-4)


def test_a_lever_that_is_gone_or_changed_is_not_replayed_with(
    taught: tuple[Floor, GpuWorker],
) -> None:
    floor, gpu = taught
    sample = make(floor, gpu, 2, audit=0, seed=4, feedback={"levers": {"verdict_head": HEAD}})[0]
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
    file.write_bytes(content)
    assert replay(floor, gpu, sample)["identical"]


def test_verdicts_without_sense_move_nothing(floor: Floor, gpu: GpuWorker) -> None:
    made = make(floor, gpu, 60, audit=0, seed=5, feedback=NO_LEVER)
    review(floor, made, lambda sample: (sample.seed or 0) % 2 == 0)
    control = make(floor, gpu, 8, audit=0, seed=6, feedback=NO_LEVER)
    same = make(floor, gpu, 8, audit=0, seed=6, feedback={"levers": {"verdict_head": HEAD}})
    assert tokens(floor, same) == tokens(floor, control)
    use = provenance(floor, same[0])["levers"][0]
    assert (use["digest"], use["weight"]) == (None, 0.0)
    assert "no better than shuffled ones" in use["note"]


def test_without_any_verdict_the_recommended_levers_wait(floor: Floor, gpu: GpuWorker) -> None:
    for levers_ in ("recommended", {"filter": {}}):
        made = make(floor, gpu, 4, audit=0, seed=5, feedback={"levers": levers_})
        use = provenance(floor, made[0])["levers"][-1]
        assert use["weight"] == 0.0
        assert use["note"].endswith("the window holds 0 and 0")


def test_too_few_verdicts_are_said(floor: Floor, gpu: GpuWorker) -> None:
    made = make(floor, gpu, 4, audit=0, seed=5, feedback={"levers": {"verdict_head": HEAD}})
    use = provenance(floor, made[0])["levers"][0]
    assert use["weight"] == 0.0
    assert use["note"] == (
        "10 accepted and 10 rejected samples are needed; the window holds 0 and 0"
    )


def test_a_job_refits_when_enough_verdicts_came(floor: Floor, gpu: GpuWorker) -> None:
    first = rounds(floor, gpu)
    extra = make(floor, gpu, 30, audit=0, seed=9, feedback=NO_LEVER)
    job = floor.submit(12, 4, guidance=PLAIN, audit=0, feedback={"levers": {"verdict_head": HEAD}})
    one, two, three = floor.shards(job)
    gpu.run_shard(one.id)
    review(floor, extra[: bench.REFIT_AFTER - 1], is_about)
    gpu.run_shard(two.id)
    review(floor, extra[bench.REFIT_AFTER - 1 :], is_about)
    gpu.run_shard(three.id)
    uses = [provenance(floor, s)["levers"][0] for s in floor.samples(job)[::4]]
    assert uses[0] == uses[1]
    assert uses[2]["digest"] != uses[0]["digest"]
    assert [use["verdicts"] for use in uses] == [len(first)] * 2 + [len(first) + 30]
    with floor.database.transaction() as session:
        statement = select(func.count()).where(FittedLever.dataset_id == floor.dataset.id)
        assert session.scalar(statement) == 2


def test_gates_filter_what_they_must_and_nothing_else(floor: Floor, gpu: GpuWorker) -> None:
    control = make(floor, gpu, 40, audit=0.25, seed=11, feedback=NO_LEVER)
    guided = [sample for sample in control if not sample.audit]
    add_real(floor, guided[0].text, next(s for s in control if s.audit).text)
    gates = {"against": ["real"], "min_characters": 40, "copies": 1.0}
    made = make(floor, gpu, 40, audit=0.25, seed=11, feedback={"levers": {"gates": gates}})
    assert [sample.text for sample in made] == [sample.text for sample in control]
    for sample in made:
        short = len(sample.text) < 40 and not sample.audit
        copy = sample.text == guided[0].text and not sample.audit
        assert (sample.state == "filtered") == (short or copy or not sample.text.strip())
        assert (sample.filter_reason is not None) == (sample.state == "filtered")
    assert 2 <= sum(sample.state == "filtered" for sample in made) < 38
    reasons = {sample.filter_reason for sample in made if sample.filter_reason}
    assert "shorter than 40 characters" in reasons
    with floor.database.transaction() as session:
        job = session.get_one(Job, made[0].job_id)
        progress = jobs.progress(session, job)
        filtered = [sample.id for sample in made if sample.state == "filtered"]
        pushed = select(func.count()).where(Push.sample_id.in_(filtered))
        assert session.scalar(pushed) == 0
    assert (progress.done, progress.filtered) == (40, len(filtered))
    assert all(replay(floor, gpu, sample)["identical"] for sample in made[:3])


def test_a_text_like_one_stored_before_is_a_copy_of_it(floor: Floor, gpu: GpuWorker) -> None:
    gates = {"levers": {"gates": {"copies": 1.0}}}
    first = make(floor, gpu, 10, audit=0, seed=12, feedback=gates)
    again = make(floor, gpu, 10, audit=0, seed=12, feedback=gates)
    assert [s.text for s in again] == [s.text for s in first]
    kept = {sample.text for sample in first if sample.state != "filtered"}
    assert kept
    assert all(sample.state == "filtered" for sample in again if sample.text in kept)


def test_keywords_come_from_stated_reasons(floor: Floor, gpu: GpuWorker) -> None:
    made = make(floor, gpu, 150, audit=0, seed=13, feedback=NO_LEVER)
    counts = Counter(word for sample in made for word in set(words(sample.text)))
    word = min((w for w in counts if counts[w] >= 15), key=lambda w: (counts[w], w))
    review(floor, made, lambda sample: word in words(sample.text))
    gates = {"copies": None, "keywords": True}
    after = make(floor, gpu, 60, audit=0, seed=14, feedback={"levers": {"gates": gates}})
    held = [sample for sample in after if word in words(sample.text)]
    assert held
    assert all(str(sample.filter_reason).endswith("(off_topic)") for sample in held)
    refused = [s for s in after if s.state == "filtered" and s.text.strip()]
    assert len(refused) < len(after) / 2
    rules = provenance(floor, after[0])["levers"][0]["rules"]
    learned = {"word": word, "reason": "off_topic", "seen": counts[word]}
    assert learned in rules["keywords"]


def test_the_filter_ranks_and_keeps_ordinals(taught: tuple[Floor, GpuWorker]) -> None:
    floor, gpu = taught
    made = make(floor, gpu, 60, audit=0.2, seed=15, feedback={"levers": {"filter": {"keep": 0.5}}})
    assert [sample.ordinal for sample in made] == list(range(60))
    guided = [sample for sample in made if not sample.audit and sample.text.strip()]
    kept = [sample for sample in guided if sample.state != "filtered"]
    refused = [sample for sample in guided if sample.state == "filtered"]
    assert kept
    assert refused
    assert share(kept) < share(refused)
    assert all(str(s.filter_reason).startswith("ranked too low by the filter") for s in refused)
    assert not any(sample.state == "filtered" for sample in made if sample.audit and sample.text)
    use = provenance(floor, kept[0])["levers"][0]
    assert (use["name"], use["weight"]) == ("filter", 0.5)


def test_levers_are_halved_when_variety_falls(taught: tuple[Floor, GpuWorker]) -> None:
    floor, gpu = taught
    strong = {"levers": {"verdict_head": {**HEAD, "weight": 100.0, "cap": 100.0}}}
    make(floor, gpu, 210, audit=0.2, seed=16, feedback=strong)
    told = [provenance(floor, s)["levers"][0] for s in again(floor, gpu, strong)]
    assert [use["weight"] for use in told] == [50.0, 50.0]
    assert [use["cap"] for use in told] == [50.0, 50.0]
    assert "below the audit's: weights are at 0.5" in told[0]["backed_off"]
    with floor.database.transaction() as session:
        dataset = datasets.get(session, floor.dataset.name)
        datasets.set_feedback(dataset, Feedback.model_validate(strong))
        state = levers.state(session, dataset)
    assert state["scale"] == 0.5
    assert state["backed_off"] == told[0]["backed_off"]
    other = {"levers": {"verdict_head": {**HEAD, "weight": 99.0, "cap": 100.0}}}
    assert provenance(floor, again(floor, gpu, other)[0])["levers"][0]["weight"] == 99.0


def again(floor: Floor, gpu: GpuWorker, feedback: dict[str, Any]) -> list[Sample]:
    return make(floor, gpu, 2, size=1, audit=0, seed=17, feedback=feedback)


def test_the_window_lets_a_guideline_change_its_mind(floor: Floor, gpu: GpuWorker) -> None:
    old = rounds(floor, gpu)
    new = make(floor, gpu, 60, audit=0, seed=18, feedback=NO_LEVER)
    long_ago = datetime.now(UTC) - timedelta(days=30)
    with floor.database.transaction() as session:
        ids = [sample.id for sample in old]
        session.execute(update(Review).where(Review.sample_id.in_(ids)).values(updated_at=long_ago))
    review(floor, new, lambda sample: not is_about(sample))
    with floor.database.transaction() as session:
        for window in (Window(rounds=1), Window(days=7), Window(rounds=2, days=7)):
            found = levers.evidence(session, floor.dataset.id, window)
            assert {verdict.sample_id for verdict in found} == {sample.id for sample in new}
        assert len(levers.evidence(session, floor.dataset.id, Window())) == 180
        assert len(levers.evidence(session, floor.dataset.id, Window(rounds=2))) == 180
        rejected = {sample.id for sample in new if not is_about(sample)}

    setting = {"levers": {"negatives": {}}, "window": {"rounds": 1}}
    job = floor.submit(
        6,
        guidance={"eta": 0.5},
        audit=0,
        feedback=setting,
        negatives={"count": 2, "sources": {"rejected": 1}, "group": 1},
    )
    for shard in floor.shards(job):
        gpu.run_shard(shard.id)
    used = [id_ for sample in floor.samples(job) for id_ in floor.negative_ids(sample)]
    assert len(used) == 12
    assert set(used) <= rejected


def test_the_negatives_lever_scales_and_switches(floor: Floor, gpu: GpuWorker) -> None:
    add_real(floor, "bae bai", "duo dul", "kis kim")
    steered = {"guidance": {"eta": 0.8}, "audit": 0.25, "seed": 19}
    steered["negatives"] = {"count": 2, "sources": {"real": 1}, "group": 1}

    def made(**more: Any) -> list[Sample]:
        job = floor.submit(8, **{**steered, **more})
        for shard in floor.shards(job):
            gpu.run_shard(shard.id)
        return floor.samples(job)

    half = made(feedback={"levers": {"negatives": {"weight": 0.5}}})
    less = made(guidance={"eta": 0.4})
    off = made(feedback=NO_LEVER)
    assert tokens(floor, half) == tokens(floor, less)
    assert tokens(floor, half) != tokens(floor, off)
    assert provenance(floor, half[0])["levers"][0]["weight"] == 0.5
    assert not any(floor.negative_ids(sample) for sample in off)
    assert all(replay(floor, gpu, sample)["identical"] for sample in (*half, *off))


def test_negatives_rest_where_rejected_texts_are_like_accepted_ones(
    floor: Floor, gpu: GpuWorker
) -> None:
    asks = {"levers": {"negatives": {"told_apart": 0.8}}}
    steered = {"audit": 0, "seed": 20, "negatives": {"count": 2, "sources": {"rejected": 1}}}

    def made(feedback: dict[str, Any]) -> list[Sample]:
        job = floor.submit(8, guidance={"eta": 0.5}, feedback=feedback, **steered)
        for shard in floor.shards(job):
            gpu.run_shard(shard.id)
        return floor.samples(job)

    first = make(floor, gpu, 60, audit=0, seed=21, feedback=NO_LEVER)
    review(floor, first[:8], lambda sample: (sample.ordinal or 0) % 2 == 0)
    early = made(asks)
    assert provenance(floor, early[0])["levers"][0]["weight"] == 1.0, "too few verdicts to know"
    assert floor.negative_ids(early[0])

    review(floor, first[8:], lambda sample: (sample.seed or 0) % 2 == 0)
    resting = made(asks)
    use = provenance(floor, resting[0])["levers"][0]
    assert use["weight"] == 0.0
    assert "not told from accepted ones by what they say: AUROC" in use["note"]
    assert tokens(floor, resting) == tokens(floor, made(NO_LEVER))
    assert not any(floor.negative_ids(sample) for sample in resting)
    assert all(replay(floor, gpu, sample)["identical"] for sample in (*early, *resting))


def test_negatives_act_where_rejected_texts_are_told_apart_well_enough(
    taught: tuple[Floor, GpuWorker],
) -> None:
    floor, gpu = taught
    weights = []
    for least in (0.5, 0.999):
        asks = {"levers": {"negatives": {"told_apart": least}}}
        [made] = make(floor, gpu, 1, audit=0, seed=23, feedback=asks)
        weights.append(provenance(floor, made)["levers"][0]["weight"])
    assert weights == [1.0, 0.0]


def test_the_recommended_levers_act_together(taught: tuple[Floor, GpuWorker]) -> None:
    floor, gpu = taught
    recommended = {"levers": "recommended"}
    job = floor.submit(12, guidance={"eta": 0.5}, audit=0.25, seed=22, feedback=recommended)
    for shard in floor.shards(job):
        gpu.run_shard(shard.id)
    made = floor.samples(job)
    uses = provenance(floor, next(s for s in made if not s.audit))["levers"]
    assert [use["name"] for use in uses] == ["gates", "negatives", "verdict_head"]
    assert uses[2]["weight"] == RECOMMENDED.verdict_head.weight
    assert all(replay(floor, gpu, sample)["identical"] for sample in made[:4])


def test_samples_from_before_levers_are_replayed(floor: Floor, gpu: GpuWorker) -> None:
    add_real(floor, "bae bai", "duo dul", "kis kim")
    job = floor.submit(3, audit=0, negatives={"count": 2, "sources": {"real": 1}})
    for shard in floor.shards(job):
        gpu.run_shard(shard.id)
    with floor.database.transaction() as session:
        for attempt in session.scalars(select(Attempt)):
            attempt.environment = {k: v for k, v in attempt.environment.items() if k != "levers"}
        row = session.get_one(Job, job.id)
        row.spec = {name: value for name, value in row.spec.items() if name != "feedback"}
    made = floor.samples(job)
    assert all(replay(floor, gpu, sample)["identical"] for sample in made)
    assert provenance(floor, made[0])["levers"] == []
