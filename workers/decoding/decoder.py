"""Guided decoding of many samples at once: slots, streams, one token at a time.

    requests ─pull→ admit ─prefill→ logits ─steer, draw→ tokens ─forward→ logits …
                       ↑ a slot is free                    ↓ eos, length, stop, error
                       └────────────────────────────── Completion

A slot decodes one sample; up to six streams help it: the expert and the base after the
prompt, the expert after the negative prompt, the expert after the centre prompt, and what a
learned lever asks for. The engine knows token ids only.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

import torch

from factory.errors import NumericalError, PromptError
from factory.guidance import Guidance, Sampling
from workers.models.pair import ModelPair
from workers.streams import ROLES, Context, DocumentCache, RoleName, Streams, apart

from .choosing import Chooser, Sample, Term
from .guidance import Steered
from .prompts import check_context, check_other
from .records import Completion, FinishReason, Request, Step

StopRule = Callable[[Sequence[int]], bool]


class SteerDecoder:
    """Decodes requests with one guidance and one sampling, `slots` of them at a time."""

    def __init__(
        self,
        pair: ModelPair,
        guidance: Guidance,
        sampling: Sampling,
        slots: int = 32,
        *,
        trace: bool = False,
        should_stop: StopRule | None = None,
        terms: Sequence[Term] = (),
        documents: DocumentCache | None = None,
    ) -> None:
        """trace: record why each token was chosen. should_stop: called with a row's tokens so
        far after each of them; True ends the row with "stop" (its tokens are left whole).
        terms: act on every request that does not say otherwise. documents: run the documents
        of contexts apart and keep their keys and values here (`documents` says what that is);
        models with sliding windows run contexts joint even so, see `kv`."""
        if slots < 1:
            raise ValueError(f"slots must be 1 or more, not {slots}")
        self._pair = pair
        self._guidance = guidance
        self._sampling = sampling
        self._slots = slots
        self._trace = trace
        self._documents = documents
        self._should_stop = should_stop
        self._terms = [term.on(pair) for term in terms if term.weight > 0]

    @property
    def kv(self) -> Literal["joint", "concatenated"]:
        """How contexts with more than one document are run."""
        apart = self._documents is not None and not self._pair.windowed
        return "concatenated" if apart else "joint"

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Yield completions as rows finish. A request is pulled when a slot is free for it,
        after the completions of the rows that freed slots were taken from this iterator.

        Raises PromptError when a request cannot be decoded from. A row whose logits are not
        finite ends with finish_reason "error"; the others go on.
        """
        for finished, _ in self._stepped(requests):
            yield from finished

    def steps(self, requests: Iterable[Request]) -> Iterator[Step]:
        """`run`, seen after each token of the rows that go on."""
        for finished, batch in self._stepped(requests):
            yield Step(finished, batch.going)

    def _stepped(
        self, requests: Iterable[Request]
    ) -> Iterator[tuple[Sequence[Completion], "_Batch"]]:
        batch = _Batch(self)
        pending = enumerate(requests)
        while True:
            batch.admit(pending)
            if batch.is_empty:
                batch.leave()
                return
            yield batch.step(), batch

    @torch.inference_mode()
    def along(self, request: Request, tokens: Sequence[int]) -> Iterator[Steered]:
        """What each of these tokens of a sample was chosen among, (1, V) rows, one token after
        the other, and then what may follow them. Raises PromptError as `run` does."""
        batch = _Batch(self)
        batch.admit(iter([(0, request)]))
        yield batch.steered(0)
        for token in tokens[: self._sampling.max_new_tokens - 1]:
            batch.go_on(0, token)
            yield batch.steered(0)

    def roles(self, request: Request) -> tuple[RoleName, ...]:
        """The streams that a request needs; those with weight 0 are left out."""
        guidance = self._guidance
        negative = guidance.uses_negative and len(request.negative_ids) > 0
        centered = negative and guidance.uses_center and len(request.center_ids) > 0
        used = {"expert": True, "base": guidance.uses_base, "negative": negative}
        used["center"] = centered
        used |= {role: request.learned for term in self._terms for role in term.roles}
        return tuple(role for role in ROLES if used.get(role))

    def check(self, request: Request) -> None:
        """Raise PromptError when a request cannot be decoded from."""
        pair, room = self._pair, self._sampling.max_new_tokens
        for name, ids in (
            ("prompt", request.prompt_ids),
            ("negative context", request.negative_ids),
            ("centre context", request.center_ids),
        ):
            if name == "prompt" or len(ids) > 0:
                check_context(name, ids, pair.vocab_size, room, pair.max_positions)
        if len(request.center_ids) > 0 and len(request.negative_ids) == 0:
            raise PromptError("a centre context needs a negative context to be the centre of")
        if self._guidance.rule == "correlated":
            check_other(request.prompt_ids, request.negative_ids, request.negative_spans)

    def other(self, request: Request) -> Sequence[int]:
        """The tokens of the sample that a request is contrasted with: what follows the prompt in
        the first document of its negative context."""
        if self._guidance.rule != "correlated" or len(request.negative_ids) == 0:
            return ()
        return request.negative_ids[len(request.prompt_ids) : request.negative_spans[0]]


class _Batch:
    """The samples in the slots of one run, and their streams."""

    def __init__(self, decoder: SteerDecoder) -> None:
        self._decoder = decoder
        pair, slots, terms = decoder._pair, decoder._slots, decoder._terms
        settings = decoder._guidance, decoder._sampling
        self._chooser = Chooser(pair, *settings, slots, terms=terms, trace=decoder._trace)
        columns, documents = decoder._sampling.max_new_tokens, decoder._documents
        self._streams = Streams(
            pair,
            slots,
            columns,
            documents,
            hidden=any(term.hidden for term in terms),
            likeness=decoder._guidance.rule == "avoidance",
        )
        self._samples: dict[int, Sample] = {}  # by slot, in order

    def steered(self, slot: int) -> Steered:
        """What a slot's next token is chosen among, (1, V) rows."""
        at = slice(slot, slot + 1)
        return self._chooser.steer(self._samples[slot], at, self._streams.logits)[0]

    def go_on(self, slot: int, token: int) -> None:
        """Run a slot on with a token that was chosen before."""
        self._samples[slot].tokens.append(token)
        self._run({slot: self._samples[slot]})

    def _run(self, samples: Mapping[int, Sample]) -> None:
        """Run the streams of these slots on with their last tokens."""
        other = {slot: token for slot, s in samples.items() for token in s.other_token}
        correlated = self._decoder._guidance.rule == "correlated"
        last = {slot: sample.tokens[-1] for slot, sample in samples.items()}
        self._streams.step(last, other if correlated else None)

    @property
    def going(self) -> dict[int, tuple[int, ...]]:
        """The tokens so far of the samples in the slots, by the index of their request."""
        return {s.index: tuple(s.tokens) for s in self._samples.values()}

    @property
    def is_empty(self) -> bool:
        return not self._samples

    def leave(self) -> None:
        """Leave what can be used again to the next run."""
        self._streams.leave()

    def admit(self, pending: Iterator[tuple[int, Request]]) -> None:
        """Pull a request for every free slot and prefill its streams."""
        fresh: dict[int, Sample] = {}
        for slot in range(self._decoder._slots):
            if slot in self._samples:
                continue
            index, request = next(pending, (0, None))
            if request is None:
                break
            self._decoder.check(request)
            roles, other = self._decoder.roles(request), self._decoder.other(request)
            fresh[slot] = Sample(index, request, roles, other)
        if fresh:
            self._samples = dict(sorted({**self._samples, **fresh}.items()))
            self._chooser.start(fresh)
            self._streams.open(
                [
                    (slot, role, self._context(sample.request, role))
                    for slot, sample in fresh.items()
                    for role in sample.roles
                ]
            )

    def _context(self, request: Request, role: RoleName) -> Context:
        """What a stream of a request goes on from."""
        if role not in ("negative", "center"):
            return Context(tuple(request.prompt_ids))
        if self._decoder._guidance.rule == "correlated":
            return Context(tuple(request.prompt_ids))
        ids, spans = request.negative_ids, request.negative_spans
        if self._decoder._guidance.rule == "avoidance":
            return Context(tuple(ids), tuple(spans) or (len(ids),))
        if role == "center":
            ids, spans = request.center_ids, request.center_spans
        if self._decoder.kv == "joint":
            return Context(tuple(ids))
        return apart(tuple(ids), spans, self._decoder._pair.bos_ids)

    def step(self) -> list[Completion]:
        """Choose one token per sample, end the rows that are done, run the others on."""
        live = [*self._samples]
        tokens, healthy = self._chooser.choose(self._samples, self._streams.logits)
        finished = [
            completion
            for slot, token, ok in zip(live, tokens, healthy, strict=True)
            if (completion := self._accept(slot, token, ok)) is not None
        ]
        self._streams.close({slot for slot in live if slot not in self._samples})
        self._run(self._samples)
        return finished

    def _accept(self, slot: int, token: int, healthy: bool) -> Completion | None:
        """Add a token to a sample; its completion when that ends it."""
        sample = self._samples[slot]
        reason: FinishReason | None = None
        if not healthy:
            reason = "error"
        elif token in self._decoder._pair.eos_ids:
            reason = "eos"
        else:
            sample.tokens.append(token)
            if self._decoder._should_stop and self._decoder._should_stop(sample.tokens):
                reason = "stop"
            elif len(sample.tokens) >= self._decoder._sampling.max_new_tokens:
                reason = "length"
        if reason is None:
            return None
        del self._samples[slot]
        return Completion(
            index=sample.index,
            token_ids=tuple(sample.tokens),
            finish_reason=reason,
            trace=self._chooser.trace(slot, sample),
            error=_not_finite(sample) if reason == "error" else None,
        )


def _not_finite(sample: Sample) -> NumericalError:
    return NumericalError(
        f"the logits of request {sample.index} are not finite after {len(sample.tokens)} tokens: "
        "check the weights, or load them in float32"
    )
