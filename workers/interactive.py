"""Answers what a person waits for: replay, explanation and preview."""

import random
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sqlalchemy import ColumnElement
from sqlalchemy.orm import Session

from factory import datasets, levers, log, models, negatives, requests, samples
from factory.db import Database
from factory.errors import FactoryError, Stopped, Unavailable
from factory.feedback import Feedback
from factory.negatives import Chosen
from factory.spec import GenerateSpec, row_seed
from factory.tables import Attempt, Job, ModelPair, Request, Sample
from workers.decoding import MASKED, Completion, Trace
from workers.explanation import explained, likeliest
from workers.generate import Composer, Row
from workers.levers.acting import Acting, recalled
from workers.levers.bench import Bench
from workers.pairs import LoadedPair, PairCache
from workers.preview import Side
from workers.watchdog import Watchdog

NOTE_SECONDS = 0.5  # how often what is made so far is stored for those who watch

logger = log.get(__name__)


@dataclass(frozen=True)
class Past:
    """A sample as it was made: what a replay needs."""

    sample: Sample
    spec: GenerateSpec
    model: ModelPair
    chosen: Chosen
    levers: Sequence[dict[str, Any]]


@dataclass
class Desk:
    """Serves interactive requests with this worker's models."""

    database: Database
    pairs: PairCache
    stall_seconds: float
    bench: Bench
    shutdown: threading.Event = field(default_factory=threading.Event)
    _unanswered: dict[uuid.UUID, int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._watchdog = Watchdog(self.stall_seconds)

    def serve_all(self) -> None:
        """Answer every waiting request, oldest first. One that the database did not let be
        answered, or for which this worker has no time left, stays owed."""
        self._count_off()
        for request_id in self.database.retrying(requests.pending):
            try:
                self.serve(request_id)
            except (Stopped, Unavailable) as error:
                logger.warning("request.put_off", request=str(request_id), error=error.detail)
        self._count_off()

    def serve(self, request_id: uuid.UUID) -> None:
        """Answer one request, or say why it cannot be answered, unless another is at it."""
        with self.database.only_one(f"request/{request_id}") as mine:
            if not mine:
                return
            attempt = self._begin(request_id)
            if attempt is None:
                return
            self._unanswered[request_id] = attempt
            with self._watchdog:
                self._serve(request_id)
            del self._unanswered[request_id]

    def _begin(self, request_id: uuid.UUID) -> int | None:
        """Counted before the work: who is killed by it cannot count it afterwards."""
        before = self.database.retrying(lambda s: requests.attempts(s, request_id))
        return self.database.retrying(lambda s: requests.begin(s, request_id, before))

    def _count_off(self) -> None:
        """What was begun here and could not be stored did not end this worker."""
        for request_id, attempt in list(self._unanswered.items()):
            self.database.retrying(
                partial(requests.put_off, request_id=request_id, attempt=attempt)
            )
            del self._unanswered[request_id]

    def _serve(self, request_id: uuid.UUID) -> None:
        with self.database.transaction() as session:
            request = requests.waiting(session, request_id)
            if request is None:
                return
            try:
                with session.begin_nested():
                    result = self._answer(session, request)
            except Stopped:
                raise
            except FactoryError as error:
                requests.refuse(session, request, error)
            except Exception as error:
                logger.exception("request.failed", request=str(request_id))
                requests.refuse(session, request, FactoryError(f"The worker failed: {error}"))
            else:
                requests.answer(session, request, result)

    def _answer(self, session: Session, request: Request) -> dict[str, Any]:
        if request.kind == "preview":
            return self._preview(session, request)
        past = _past(session, uuid.UUID(request.payload["sample"]))
        answer = self._replay if request.kind == "replay" else self._explain
        return answer(past)

    def _replay(self, past: Past) -> dict[str, Any]:
        """Make a sample again from what was recorded, and compare the tokens."""
        pair = self.pairs.load(past.model)
        completion, composer = self._again(pair, past)
        expected = tuple(past.sample.token_ids or ())
        at = _parting(expected, completion.token_ids)
        return {
            "identical": completion.token_ids == expected,
            "text": composer.text(completion.token_ids),
            "expected": past.sample.text,
            "first_difference": (
                None
                if at is None
                else _difference(pair, past, composer, expected, completion.token_ids, at)
            ),
        }

    def _explain(self, past: Past) -> dict[str, Any]:
        """What moved each token, from the stored trace, or from a replay when there is none; and
        what was likeliest in its place."""
        pair = self.pairs.load(past.model)
        acting = recalled(self.bench.settings, past.levers)
        composer = Composer(acting.applied(past.spec), pair, acting.terms)
        request = _row(composer, past).request
        decoder = composer.decoder(1, trace=True)
        if past.sample.trace is not None:
            trace = Trace.from_bytes(past.sample.trace)
        else:
            completion = next(decoder.run([request]))
            if completion.trace is None:
                raise FactoryError("The sample could not be made again.")
            trace = completion.trace
        among = likeliest(decoder, pair, request, trace.tokens.tolist())
        tokens = zip(explained(pair, trace), among, strict=True)
        told = [{**token, "likeliest": found} for token, found in tokens]
        return {"sample": str(past.sample.id), "tokens": told}

    def _again(self, pair: LoadedPair, past: Past) -> tuple[Completion, Composer]:
        acting = recalled(self.bench.settings, past.levers)
        composer = Composer(acting.applied(past.spec), pair, acting.terms)
        row = _row(composer, past)
        return next(composer.decoder(1, trace=True).run([row.request])), composer

    def _preview(self, session: Session, request: Request) -> dict[str, Any]:
        """A few samples with and without guidance, from the same seeds. Nothing is stored but
        the request's own result, which grows as they are made."""
        spec = GenerateSpec.model_validate(request.payload["spec"])
        dataset = datasets.get(session, spec.dataset)
        pair = self.pairs.load(models.get(session, spec.model))
        feedback = spec.feedback or Feedback.model_validate(dataset.feedback)
        filled = {"prompt": spec.prompt or dataset.prompt, "feedback": feedback}
        spec = spec.model_copy(update=filled)
        off = {"gamma": 0.0, "eta": 0.0}
        plain = spec.model_copy(update={"guidance": spec.guidance.model_copy(update=off)})
        acting = self.bench.ready(dataset.id, spec, pair, watch=self._step)
        sides = {
            "unguided": self._side(session, pair, plain, dataset.id, Acting()),
            "guided": self._side(session, pair, spec, dataset.id, acting),
        }
        going, noted = [*sides.values()], time.monotonic()
        while going:
            going = [side for side in going if side.advance()]
            if time.monotonic() - noted >= NOTE_SECONDS:
                self._note(request.id, _texts(sides))
                noted = time.monotonic()
        return _texts(sides)

    def _step(self) -> None:
        """Called at each step of what takes long. Raises Stopped."""
        self._watchdog.step()
        if self.shutdown.is_set():
            raise Stopped("This worker is shutting down.")

    def _note(self, request_id: uuid.UUID, partial: dict[str, Any]) -> None:
        with self.database.transaction() as session:
            requests.note(session, request_id, partial)

    def _side(
        self,
        session: Session,
        pair: LoadedPair,
        spec: GenerateSpec,
        dataset_id: uuid.UUID,
        acting: Acting,
    ) -> Side:
        spec = acting.applied(spec)
        evidence = levers.within(dataset_id, acting.window)
        composer = Composer(spec, pair, acting.terms)
        rows = [
            composer.row(
                ordinal, seed, _chosen(session, spec, dataset_id, seed, evidence), audit=False
            )
            for ordinal in range(spec.count)
            for seed in [row_seed(spec.seed, ordinal)]
        ]
        return Side(composer, rows)


def _chosen(
    session: Session,
    spec: GenerateSpec,
    dataset_id: uuid.UUID,
    seed: int,
    evidence: ColumnElement[bool],
) -> Chosen:
    if spec.guidance.eta == 0:
        return Chosen()
    rng = random.Random(seed)
    return negatives.choose(session, dataset_id, spec.negatives, rng, evidence=evidence)


def _texts(sides: Mapping[str, Side]) -> dict[str, list[dict[str, Any]]]:
    return {name: side.texts() for name, side in sides.items()}


def _past(session: Session, sample_id: uuid.UUID) -> Past:
    sample = samples.get_synthetic(session, sample_id)
    job = session.get_one(Job, sample.job_id)
    links = samples.negatives_of(session, sample_id)
    negative, center = (
        negatives.recorded(session, [link.negative_id for link, _ in links if link.role == role])
        for role in ("negative", "center")
    )
    return Past(
        sample,
        GenerateSpec.model_validate(job.spec),
        session.get_one(ModelPair, job.model_id),
        Chosen(negative, center),
        samples.levers_of(sample, session.get_one(Attempt, sample.attempt_id)) or (),
    )


def _row(composer: Composer, past: Past) -> Row:
    sample = past.sample
    return composer.row(sample.ordinal or 0, sample.seed or 0, past.chosen, audit=sample.audit)


def _parting(expected: tuple[int, ...], made: tuple[int, ...]) -> int | None:
    """The first position where both differ; None when they are the same."""
    if expected == made:
        return None
    together = enumerate(zip(expected, made, strict=False))
    shorter = min(len(expected), len(made))
    return next((i for i, (old, new) in together if old != new), shorter)


def _difference(
    pair: LoadedPair,
    past: Past,
    composer: Composer,
    expected: tuple[int, ...],
    made: tuple[int, ...],
    at: int,
) -> dict[str, Any]:
    """The two tokens at a position, and their scores after what came before it. A sample that
    has ended there has none; a token that is not plausible now has no score."""
    decoder = composer.decoder(1, trace=False)
    *_, last = decoder.along(_row(composer, past).request, made[:at])
    scores = last.scores[0]

    def score(tokens: tuple[int, ...]) -> float | None:
        value = float(scores[tokens[at]]) if at < len(tokens) else MASKED
        return value if value > MASKED else None

    return {
        "position": at,
        "expected": pair.pieces[expected[at]] if at < len(expected) else None,
        "made": pair.pieces[made[at]] if at < len(made) else None,
        "expected_score": score(expected),
        "made_score": score(made),
    }
