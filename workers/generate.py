"""Runs a generate shard: negatives are chosen as slots start, samples stored as they finish."""

import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from sqlalchemy.orm import Session

from factory import levers, log, negatives, samples, shards
from factory.db import Database
from factory.errors import FactoryError, Stopped
from factory.negatives import Chosen, Document
from factory.samples import Failed, Made, MadeBy
from factory.settings import Settings
from factory.spec import GenerateSpec, is_audit, row_seed
from workers import layout
from workers.decoding import (
    ATTACHED,
    Completion,
    DocumentCache,
    Request,
    RoleName,
    SteerDecoder,
    Term,
)
from workers.layout import Context, Layout
from workers.leases import Hold
from workers.levers.acting import Acting
from workers.memory import most_slots, plan
from workers.pairs import LoadedPair

FLUSH_SECONDS = 2.0  # a finished text is never unstored for longer while others go on

StopRule = Callable[[Sequence[int]], bool]

logger = log.get(__name__)


@dataclass(frozen=True)
class Row:
    """One sample to make: its request, and what it was steered away from."""

    ordinal: int
    seed: int
    audit: bool
    request: Request
    negatives: tuple[Document, ...] = ()
    center: tuple[Document, ...] = ()


@dataclass
class Composer:
    """Turns documents and a seed into a request of this spec, for this pair."""

    spec: GenerateSpec
    pair: LoadedPair
    terms: Sequence[Term] = ()

    def __post_init__(self) -> None:
        self._layout = Layout(self.pair.tokenizer, self.spec.prompt or "")
        self._budget = self.pair.models.max_positions - self.spec.sampling.max_new_tokens

    def row(self, ordinal: int, seed: int, chosen: Chosen, *, audit: bool) -> Row:
        """A row whose contexts hold as many whole documents as fit. Without a negative there is
        nothing to push from, and no centre of it; the rule "correlated" takes the first only."""
        guidance = self.spec.guidance.build()
        away = self._context(chosen.negatives[: 1 if guidance.rule == "correlated" else None])
        center = self._context(chosen.center if away.kept and guidance.uses_center else ())
        request = Request(
            prompt_ids=self._layout.prompt_ids(),
            seed=seed,
            negative_ids=away.ids,
            negative_spans=away.spans,
            center_ids=center.ids,
            center_spans=center.spans,
            learned=not audit,
        )
        return Row(
            ordinal,
            seed,
            audit,
            request,
            negatives=tuple(chosen.negatives[i] for i in away.kept),
            center=tuple(chosen.center[i] for i in center.kept),
        )

    def lengths(self) -> dict[RoleName, tuple[int, int]]:
        """Of each role's context: tokens, and how many rows share one. Negatives are taken to
        be as long as a text of this spec can get."""
        prompt = len(self._layout.prompt_ids())
        document = prompt + self.spec.sampling.max_new_tokens + 1
        chosen = self.spec.negatives
        away = min(chosen.count * document + prompt, self._budget)
        lengths: dict[RoleName, tuple[int, int]] = {
            "expert": (prompt, self.spec.shard_size),
            "base": (prompt, self.spec.shard_size),
        }
        if chosen.count > 0:
            lengths["negative"] = (away, chosen.group)
        if chosen.count > 0 and chosen.center:
            lengths["center"] = (away, chosen.group)
        learned = self.spec.feedback.levers if self.spec.feedback else None
        if learned and learned.adapters and self.pair.models.kind == "lora":
            lengths |= dict.fromkeys(ATTACHED, lengths["expert"])
        return lengths

    @property
    def documents(self) -> DocumentCache | None:
        """Where documents that are run apart are kept; None: contexts are run joint."""
        return self.pair.documents if self.spec.negatives.kv == "concatenated" else None

    def slots(self, free: int) -> int:
        """How many rows fit side by side into `free` bytes; never more than a shard has."""
        guidance, sampling = self.spec.guidance.build(), self.spec.sampling.build()
        fitting = plan(self.pair.models, guidance, sampling, self.lengths())
        free -= self.documents.budget if self.documents is not None else 0
        return fitting.slots(free, min(most_slots(self.pair.models.device), self.spec.shard_size))

    def text(self, token_ids: Sequence[int]) -> str:
        """The text of a finished row, without its stop string."""
        return layout.cut_at_stop(self._layout.text_of(token_ids), self.spec.sampling.stop)[0]

    def decoder(
        self, slots: int, *, trace: bool, watch: Callable[[], None] | None = None
    ) -> SteerDecoder:
        """A decoder with this spec's settings. `watch` is called with each token, and what it
        raises ends the run."""
        at_stop = stop_rule(self.pair, self.spec.sampling.stop)
        return SteerDecoder(
            self.pair.models,
            self.spec.guidance.build(),
            self.spec.sampling.build(),
            slots,
            trace=trace,
            should_stop=at_stop if watch is None else _watched(at_stop, watch),
            terms=self.terms,
            documents=self.documents,
        )

    def _context(self, documents: Sequence[Document]) -> Context:
        """The documents' context; empty when there are none or none fits."""
        context = self._layout.context([document.text for document in documents], self._budget)
        return context if context.kept else Context((), (), ())


def _watched(at_stop: StopRule | None, watch: Callable[[], None]) -> StopRule:
    def should_stop(token_ids: Sequence[int]) -> bool:
        watch()
        return at_stop is not None and at_stop(token_ids)

    return should_stop


def stop_rule(pair: LoadedPair, stop: Sequence[str]) -> StopRule | None:
    """Whether a row's text has come to a stop string.

    Only a token that brings a stop string's last character (or part of a character) can
    complete one, so most tokens cost one look-up; a short tail is decoded for the others.
    """
    ends = {mark[-1] for mark in stop} | {"\ufffd"}
    suspects = frozenset(i for i, piece in enumerate(pair.pieces) if ends & set(piece))
    if not stop or not suspects:
        return None
    reach = max(map(len, stop)) + 4

    def is_at_stop(token_ids: Sequence[int]) -> bool:
        if token_ids[-1] not in suspects:
            return False
        tail = pair.tokenizer.decode(list(token_ids[-reach:]), clean_up_tokenization_spaces=False)
        return any(mark in tail for mark in stop)

    return is_at_stop


@dataclass
class ShardRun:
    """One attempt at one shard."""

    database: Database
    settings: Settings
    hold: Hold
    spec: GenerateSpec
    pair: LoadedPair
    by: MadeBy
    slots: int
    acting: Acting
    _rows: dict[int, Row] = field(default_factory=dict, init=False)
    _batch: list[Made | Failed] = field(default_factory=list, init=False)
    _flushed: float = field(default_factory=time.monotonic, init=False)

    def run(self) -> None:
        """Make what is missing. What is finished is stored also when the run is stopped or the
        device's memory is full.

        Raises LeaseLost, Stopped, DecodingError, torch.OutOfMemoryError.
        """
        ordinals = self.database.retrying(lambda s: shards.missing(s, self.hold.lease))
        composer = Composer(self._guided, self.pair, self.acting.terms)
        decoder = composer.decoder(self.slots, trace=self.spec.trace, watch=self.hold.check)
        try:
            for completion in decoder.run(self._requests(composer, ordinals)):
                self._keep(completion, composer)
        except (Stopped, torch.OutOfMemoryError):
            self._flush()
            raise
        self._flush()

    @cached_property
    def _guided(self) -> GenerateSpec:
        return self.acting.applied(self.spec)

    def _requests(self, composer: Composer, ordinals: Sequence[int]) -> Iterator[Request]:
        """Pulled by the decoder as slots start, so that the newest verdicts already count."""
        chosen, left = Chosen(), 0
        for index, ordinal in enumerate(ordinals):
            seed = row_seed(self.spec.seed, ordinal)
            audit = is_audit(self.spec.audit, ordinal)
            if not audit and left == 0:
                chosen, left = self._choose(seed), self.spec.negatives.group
            left -= 0 if audit else 1
            row = composer.row(ordinal, seed, Chosen() if audit else chosen, audit=audit)
            self._rows[index] = row
            yield row.request

    def _choose(self, seed: int) -> Chosen:
        spec, dataset_id = self._guided, self.by.dataset_id
        if spec.guidance.eta == 0 or spec.negatives.count == 0:
            return Chosen()
        evidence = levers.within(dataset_id, self.acting.window)
        return self.database.retrying(
            lambda s: negatives.choose(
                s, dataset_id, spec.negatives, random.Random(seed), self.by.job_id, evidence
            )
        )

    def _keep(self, completion: Completion, composer: Composer) -> None:
        row = self._rows.pop(completion.index)
        self._batch.append(_finished(row, completion, composer))
        waited = time.monotonic() - self._flushed
        if len(self._batch) >= self.settings.commit_batch or waited > FLUSH_SECONDS:
            self._flush()

    def _flush(self) -> None:
        """Store the batch under the lease; nothing is stored when the lease is lost. A database
        that is away is waited for: what is finished is worth more than the time."""
        self._batch = self._judged(self._batch)
        self.database.retrying(self._store, self.settings.lease_seconds)
        self._batch.clear()
        self._flushed = time.monotonic()

    def _judged(self, batch: Sequence[Made | Failed]) -> list[Made | Failed]:
        """The batch, with the reason at each text that a lever filters; audit rows as they are."""
        judge = self.acting.judge
        guided = [
            row for row in batch if isinstance(row, Made) and not row.audit and row.text.strip()
        ]
        if judge is None:
            return list(batch)
        reasons = judge.reasons([row.text for row in guided])
        judged = {
            row.ordinal: replace(row, filter_reason=reason)
            for row, reason in zip(guided, reasons, strict=True)
        }
        return [judged.get(row.ordinal, row) for row in batch]

    def _store(self, session: Session) -> None:
        self.hold.renew(session)
        samples.store(session, self.by, self._batch, self.spec.review)


def _finished(row: Row, completion: Completion, composer: Composer) -> Made | Failed:
    if completion.error is not None:
        logger.warning("row.failed", ordinal=row.ordinal, error=completion.error.detail)
        return Failed(row.ordinal, _reason(completion.error))
    return Made(
        ordinal=row.ordinal,
        seed=row.seed,
        text=composer.text(completion.token_ids).replace("\x00", "\ufffd"),
        token_ids=completion.token_ids,
        finish_reason=completion.finish_reason,
        audit=row.audit,
        negatives=_ids(row.negatives),
        center=_ids(row.center),
        trace=completion.trace.to_bytes() if completion.trace else None,
    )


def _ids(documents: Sequence[Document]) -> tuple[uuid.UUID, ...]:
    return tuple(document.id for document in documents)


def _reason(error: FactoryError) -> str:
    return f"{error.title}: {error.detail}"
