"""A factory that has worked for a while: two rounds, reviews, a running job, answers."""

import math
import random
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from factory import (
    budgets,
    datasets,
    jobs,
    near_copies,
    pushes,
    requests,
    reviews,
    samples,
    shards,
    tokens,
)
from factory.db import Database
from factory.local.demo import corpus, grammar
from factory.metrics import NAMES
from factory.spec import EvaluateSpec, GenerateSpec, TrainSpec, row_seed
from factory.tables import Attempt, Dataset, Job, ModelPair, Push, Request, Sample
from factory.web.pages import job_form
from factory.web.pages.explanation import LEARNED
from tests.browser import seed_sweep
from workers.map import draw_dataset

TOKEN = "sf_the-token-of-the-browser-tests"
ENVIRONMENT = {
    "device": "cpu",
    "dtype": "float32",
    "slots": 32,
    "layout": "list-of-like",
    "kv": "joint",
    "software": {"factory": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"},
}
OTHERS = (" the", " of", " growth", " nitrogen", " plasma", " rises", " light", " slowly", " in")


@dataclass(frozen=True)
class Seeded:
    """What there is to look at."""

    finished: uuid.UUID
    running: uuid.UUID
    evaluation: uuid.UUID
    experiment: uuid.UUID
    trying: uuid.UUID
    sample: uuid.UUID
    explanation: uuid.UUID
    learned: uuid.UUID  # an explanation with what learned levers added
    replay: uuid.UUID
    tried: uuid.UUID


def login_token(db: Database) -> None:
    """The token that the browser signs in with."""
    with db.transaction() as session:
        tokens.ensure(session, "laptop", TOKEN)


def seed(db: Database) -> Seeded:
    """Fill an empty database."""
    seeded = _filled(db)
    with db.transaction() as session:
        key = datasets.get(session, "hypotheses").id
    draw_dataset(db, key)
    return seeded


def _filled(db: Database) -> Seeded:
    rng = random.Random(0)
    with db.transaction() as session:
        tokens.create(session, "nightly export")
        tokens.revoke(session, tokens.create(session, "old notebook")[0].id)
        dataset = datasets.create(
            session,
            "hypotheses",
            "Hypothesis:",
            "One-sentence scientific hypotheses about six fields",
            ["ocean", "stars", "cells"],
        )
        lines = [_line(text) for text in corpus.real_samples(60, 1)]
        datasets.import_lines(session, dataset, lines)
        other = datasets.create(session, "support-replies", "A kind reply to a customer:")
        pair = _pair(session)
        first = _job(session, dataset, pair, count=120, seed=7, eta=0.0)
        _make(session, rng, first, 120, worker="gpu@a")
        _review(session, rng, dataset, first)
        second = _job(session, dataset, pair, count=200, seed=8, eta=0.5)
        _make(session, rng, second, 125, worker="gpu@a")
        _review_second(session, rng, second)
        _job(session, dataset, pair, count=500, seed=9, eta=0.3)
        jobs.pause(session, _job(session, dataset, pair, count=64, seed=10, eta=1.0).id)
        jobs.fail(
            session,
            _job(session, dataset, pair, count=32, seed=11, eta=1.0).id,
            "The files of model pair 'demo' have changed since they were first used. Put the old "
            "files back, or register the new ones as another pair.",
        )
        evaluated = _evaluate(session, dataset, first)
        _mark_copies(session, dataset, first)
        budgets.put(session, "samples", 5000, dataset_id=dataset.id)
        budgets.put(session, "tokens", 5_000_000)
        budgets.put(session, "samples", 1000, dataset_id=other.id)
        jobs.cancel(session, _job(session, other, pair, count=100, seed=12, eta=0.5).id)
        _train(session, dataset, pair)
        tried = seed_sweep.ended(session, seed_sweep.sweep(session, dataset, pair))
        trying = seed_sweep.sweep(session, dataset, pair, points=8)
        shown = session.scalars(
            select(Sample).where(Sample.job_id == second.id, ~Sample.audit).order_by(Sample.id)
        ).all()[-2]
        return Seeded(
            finished=first.id,
            running=second.id,
            evaluation=evaluated.id,
            experiment=tried.id,
            trying=trying.id,
            sample=shown.id,
            explanation=_explain(session, rng, shown, ()).id,
            learned=_explain(session, random.Random(8), shown, LEARNED).id,
            replay=_replay(session, shown).id,
            tried=_try_out(session, rng, first).id,
        )


def _line(text: str) -> bytes:
    return b'{"text": "%s", "label": "%s"}' % (text.encode(), (grammar.theme(text) or "").encode())


def _pair(session: Session) -> ModelPair:
    pair = ModelPair(
        name="demo",
        base="/models/demo/base",
        expert="/models/demo/expert",
        base_sha256="53aa5117" * 8,
        expert_sha256="8d9db04c" * 8,
        tokenizer_sha256="1f2e3d4c" * 8,
    )
    session.add(pair)
    session.flush()
    return pair


def _job(
    session: Session, dataset: Dataset, pair: ModelPair, *, count: int, seed: int, eta: float
) -> Job:
    spec = GenerateSpec.model_validate(
        {
            "kind": "generate",
            "dataset": dataset.name,
            "model": pair.name,
            "count": count,
            "seed": seed,
            "guidance": {"gamma": 0.3, "eta": eta},
            "shard_size": 16,
        }
    )
    return jobs.submit(session, spec, dataset, pair, request={"seed": seed})[0]


def _make(session: Session, rng: random.Random, job: Job, count: int, worker: str) -> None:
    """Do a worker's part, as far as `count` samples."""
    left = count
    for shard in jobs.shards_of(session, job.id):
        if left <= 0:
            break
        lease = shards.claim(session, shard.id, worker, 86_400)
        assert lease is not None
        attempt = shards.begin_attempt(session, lease, worker, ENVIRONMENT)
        rows = range(shard.start, min(shard.stop, shard.start + left))
        made = [_made(session, rng, job, ordinal) for ordinal in rows]
        by = samples.MadeBy(job.dataset_id, job.id, shard.id, attempt)
        samples.store(session, by, made, GenerateSpec.model_validate(job.spec).review)
        left -= len(made)
        if len(made) == shard.stop - shard.start:
            shards.finish(session, lease)
    _embed(session, rng, job.dataset_id)
    session.execute(
        update(Job)
        .where(Job.id == job.id)
        .values(started_at=datetime.now(UTC) - timedelta(seconds=90))
    )
    jobs.finish_if_done(session, job.id)
    session.refresh(job)


def _made(session: Session, rng: random.Random, job: Job, ordinal: int) -> samples.Made:
    text = "" if ordinal == 40 else grammar.sample(rng)
    audit = ordinal % 5 == 4
    rejected, accepted = (
        session.scalars(
            select(Sample.id)
            .where(Sample.dataset_id == job.dataset_id, Sample.state == state)
            .where(Sample.origin == "synthetic")
            .order_by(func.random())
            .limit(3)
        ).all()
        for state in ("rejected", "accepted")
    )
    steered = not audit and job.spec["guidance"]["eta"] > 0
    return samples.Made(
        ordinal=ordinal,
        seed=row_seed(job.spec["seed"], ordinal),
        text=text,
        token_ids=tuple(range(len(text.split()))),
        finish_reason="eos",
        audit=audit,
        negatives=tuple(rejected) if steered else (),
        center=tuple(accepted[:2]) if steered else (),
    )


def _embed(session: Session, rng: random.Random, dataset_id: uuid.UUID) -> None:
    waiting = samples.unembedded(session, dataset_id, 1000)
    samples.set_embeddings(session, [(id_, _vector(rng, text)) for id_, text in waiting])


def _vector(rng: random.Random, text: str) -> Sequence[float]:
    """Samples of one theme lie near each other."""
    centre = random.Random(grammar.theme(text) or "none")
    raw = [centre.gauss(0, 1) + rng.gauss(0, 0.6) for _ in range(384)]
    length = math.sqrt(sum(x * x for x in raw))
    return [x / length for x in raw]


def _review(session: Session, rng: random.Random, dataset: Dataset, job: Job) -> None:
    """People reject one theme, and fix a few."""
    dataset.label_studio_project = 1
    pushed = session.scalars(
        select(Push).join(Sample, Sample.id == Push.sample_id).where(Sample.job_id == job.id)
    ).all()
    pushes.mark_pushed(session, 1, {p.sample_id: n for n, p in enumerate(pushed, start=1)})
    for number, push in enumerate(pushed[:100], start=1):
        reviews.apply(session, push.sample_id, _verdict(session, rng, push.sample_id, number))


def _review_second(session: Session, rng: random.Random, job: Job) -> None:
    """Fewer are rejected in the second round; two people judge some of it."""
    pushed = session.scalars(
        select(Push).join(Sample, Sample.id == Push.sample_id).where(Sample.job_id == job.id)
    ).all()[:90]
    pushes.mark_pushed(session, 1, {p.sample_id: 500 + n for n, p in enumerate(pushed)})
    for n, push in enumerate(pushed):
        audit = samples.get(session, push.sample_id).audit
        reject = rng.random() < (0.25 if audit else 0.03)
        for twice in range(2 if n % 9 == 0 else 1):
            when = datetime.now(UTC) - timedelta(hours=(n * 5) % 200, minutes=twice)
            verdict = "reject" if reject or (twice and n % 27 == 0) else "accept"
            reviews.apply(
                session,
                push.sample_id,
                reviews.Verdict(
                    annotation_id=1000 + 2 * n + twice,
                    task_id=500 + n,
                    verdict=verdict,
                    reasons=("off_topic",) if verdict == "reject" else (),
                    rewrite=None,
                    rating=None,
                    reviewer=("ada@example.org", "grace@example.org")[(n + twice) % 2],
                    lead_seconds=5.0 + n % 7,
                    created_at=when,
                    updated_at=when,
                ),
            )


def _verdict(
    session: Session, rng: random.Random, sample_id: uuid.UUID, number: int
) -> reviews.Verdict:
    text = samples.get(session, sample_id).text
    reject = grammar.theme(text) == "space" or rng.random() < 0.1
    verdict = "reject" if reject else "fix" if number % 23 == 0 else "accept"
    reasons = (rng.choice(reviews.REASONS[:3]),) if reject else ()
    when = datetime.now(UTC) - timedelta(minutes=100 - number)
    return reviews.Verdict(
        annotation_id=number,
        task_id=number,
        verdict=verdict,
        reasons=reasons,
        rewrite=grammar.sample(rng) if verdict == "fix" else None,
        rating=4 if verdict == "accept" else None,
        reviewer=rng.choice(("ada@example.org", "grace@example.org")),
        lead_seconds=6.5,
        created_at=when,
        updated_at=when,
    )


def _explain(
    session: Session, rng: random.Random, sample: Sample, levers: Iterable[str]
) -> Request:
    request = requests.create(session, "explanation", {"sample": str(sample.id)})
    pieces = [f" {word}" for word in sample.text.split()]
    tokens_ = [
        _explained(rng, piece) | {lever: rng.gauss(0, 0.3) for lever in levers} for piece in pieces
    ]
    requests.answer(session, request, {"sample": str(sample.id), "tokens": tokens_})
    return request


def _explained(rng: random.Random, piece: str) -> dict[str, Any]:
    expert = -0.02 - abs(rng.gauss(0, 1.2))
    return {
        "token": piece,
        "token_id": 1,
        "expert": expert,
        "base": min(-0.01, expert - rng.gauss(0.6, 1.5)),
        "negative": min(-0.01, expert + rng.gauss(0.1, 1.4)),
        "center": min(-0.01, expert + rng.gauss(0, 0.4)),
        "score": expert,
        "unguided": (other := piece if rng.random() < 0.8 else " stellar"),
        "survivors": (survivors := 2 if other != piece else rng.choice((1, 1, 2, 3, 8, 21))),
        "likeliest": _likeliest(rng, piece, other, survivors),
    }


def _likeliest(rng: random.Random, piece: str, other: str, survivors: int) -> dict[str, Any]:
    """Some words besides the one that came; without guidance another may be ahead of it."""
    words = [piece, *rng.sample([w for w in OTHERS if w not in (piece, other)], 5)]
    plain = [other, *(word for word in words if word != other)]
    sides = {"guided": _shares(rng, words[:survivors]), "unguided": _shares(rng, plain[:survivors])}
    came = {
        side: next(e["log_probability"] for e in each if e["token"] == piece)
        for side, each in sides.items()
    }
    return {side: each[:5] for side, each in sides.items()} | {"drawn": came}


def _shares(rng: random.Random, words: Sequence[str]) -> list[dict[str, Any]]:
    weights = sorted((rng.random() ** 2 + 0.01 for _ in words), reverse=True)
    return [
        {"token": word, "log_probability": round(math.log(weight / sum(weights)), 4)}
        for word, weight in zip(words, weights, strict=True)
    ]


def _mark_copies(session: Session, dataset: Dataset, job: Job) -> None:
    """Some of a job's samples repeat real ones."""
    real = samples.list_page(session, dataset.id, origin="real", limit=6)
    made = samples.of_job(session, job.id, 0, 60)
    why = ("near-copy of a real sample: cosine 0.97",)
    why += ("near-copy of a real sample: has 92% of its runs of three words",)
    found = [(made[9 * n + 1].id, each.id, why[n % 2]) for n, each in enumerate(real)]
    near_copies.mark(session, dataset.id, found)


def _evaluate(session: Session, dataset: Dataset, of: Job) -> Job:
    """An evaluation that is done; too few samples for MAUVE, none with a verdict in the audit."""
    body = {"kind": "evaluate", "dataset": dataset.name, "job": str(of.id)}
    job, _ = jobs.submit(session, EvaluateSpec.model_validate(body), dataset, None, request=body)
    unknown = {"mauve", "acceptance_audit"}
    job.result = {
        "samples": 120,
        "real": 60,
        "measures": [_measure(name, 119, known=name not in unknown) for name in NAMES],
        "reference": [_measure(name, 30, known=name != "mauve") for name in NAMES[3:]],
    }
    (shard,) = jobs.shards_of(session, job.id)
    lease = shards.claim(session, shard.id, "cpu@a", 60)
    assert lease is not None
    shards.finish(session, lease)
    return jobs.finish_if_done(session, job.id)


def _train(session: Session, dataset: Dataset, pair: ModelPair) -> None:
    """The job that made the pair."""
    body = {"kind": "train", "dataset": dataset.name, "model": pair.name, "base": "demo"}
    job, _ = jobs.submit(session, TrainSpec.model_validate(body), dataset, None, request=body)
    (shard,) = jobs.shards_of(session, job.id)
    lease = shards.claim(session, shard.id, "gpu@a", 60)
    assert lease is not None
    rng = random.Random(4)
    steps = range(1, 41)
    losses = [[step, round(1.4 + 2.2 * 0.9**step + rng.gauss(0, 0.05), 3)] for step in steps]
    shard.progress = {"losses": losses}
    job.model_id = pair.id
    shards.finish(session, lease)
    jobs.finish_if_done(session, job.id)


def _measure(name: str, n: int, *, known: bool) -> dict[str, Any]:
    value = random.Random(f"{name}{n}").random()
    if not known:
        note = "80 samples and twice as many real ones are needed."
        return {"name": name, "value": None, "low": None, "high": None, "n": n, "note": note}
    low, high = max(0.0, value - 0.07), min(1.0, value + 0.07)
    return {"name": name, "value": value, "low": low, "high": high, "n": n, "note": None}


def _replay(session: Session, sample: Sample) -> Request:
    request = requests.create(session, "replay", {"sample": str(sample.id)})
    same = {
        "identical": True,
        "text": sample.text,
        "expected": sample.text,
        "first_difference": None,
    }
    requests.answer(session, request, same)
    return request


def _try_out(session: Session, rng: random.Random, like: Job) -> Request:
    """What the playground was asked, answered."""
    values = job_form.values_of(like.spec) | {"guidance.eta": "0.5", "once": str(uuid.uuid4())}
    request = requests.create(session, "preview", {"spec": like.spec, "form": values})
    answer_try(session, request, rng)
    return request


def answer_try(session: Session, request: Request, rng: random.Random) -> None:
    """Do a worker's part: the guided texts differ from the unguided ones at their end."""
    plain = [grammar.sample(rng) for _ in range(8)]
    guided = [plain[0], *(_turned(rng, text) for text in plain[1:])]
    sides = {"unguided": plain, "guided": guided}
    result = {side: [_tried(n, t) for n, t in enumerate(texts)] for side, texts in sides.items()}
    requests.answer(session, request, result)


def note_try(db: Database, request_id: uuid.UUID, text: str, tokens: int) -> None:
    """Do a worker's part for a moment: the first guided text has come so far."""
    growing = _tried(0, text) | {"tokens": tokens, "partial": True}
    with db.transaction() as session:
        requests.note(session, request_id, {"unguided": [], "guided": [growing]})


def _turned(rng: random.Random, text: str) -> str:
    start, _, _ = text.partition(",")
    return ",".join((start, *grammar.sample(rng).split(",")[1:]))


def _tried(ordinal: int, text: str) -> dict[str, Any]:
    count = len(text.split())
    return {"ordinal": ordinal, "seed": ordinal, "text": text, "tokens": count, "surprise": 0.8}


def finish(db: Database, job_id: uuid.UUID) -> None:
    """Make what is left of a job that a worker holds."""
    rng = random.Random(1)
    with db.transaction() as session:
        job = jobs.get(session, job_id)
        for shard in jobs.shards_of(session, job_id):
            if shard.state == "done":
                continue
            _rest(session, rng, job, shard.id)
        jobs.finish_if_done(session, job_id)


def _rest(session: Session, rng: random.Random, job: Job, shard_id: uuid.UUID) -> None:
    shard = next(s for s in jobs.shards_of(session, job.id) if s.id == shard_id)
    lease = shards.claim(session, shard_id, "gpu@a", 600) or shards.Lease(
        shard.id, job.id, shard.start, shard.stop, shard.fence
    )
    attempt = session.scalar(select(Attempt.id).where(Attempt.shard_id == shard_id))
    attempt = attempt or shards.begin_attempt(session, lease, "gpu@a", ENVIRONMENT)
    by = samples.MadeBy(job.dataset_id, job.id, shard_id, attempt)
    rows = [_made(session, rng, job, n) for n in shards.missing(session, lease)]
    samples.store(session, by, rows, GenerateSpec.model_validate(job.spec).review)
    shards.finish(session, lease)
