"""Guided decoding of many samples at once: slots, streams, one token at a time.

    requests ─pull→ admit ─prefill→ logits ─steer, draw→ tokens ─forward→ logits …
                       ↑ a slot is free                    ↓ eos, length, stop, error
                       └────────────────────────────── Completion

A slot decodes one sample; up to four streams help it: the expert and the base after the
prompt, the expert after the negative prompt, the expert after the centre prompt. The engine
knows token ids only.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from typing import Literal, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from factory.errors import NumericalError, PromptError
from factory.guidance import Guidance, Sampling
from workers.models.pair import ModelPair

from .documents import Context, DocumentCache, apart
from .guidance import Steered, steer
from .lane import ROLES, Lane, RoleName
from .prompts import check_context
from .records import Completion, FinishReason, Request, Step
from .sampling import Noise, draw, noise_keys
from .traces import Traces

Lanes = list[tuple[tuple[RoleName, ...], Lane]]
Choose = Callable[..., Tensor]  # see `fused.choose`
StopRule = Callable[[Sequence[int]], bool]


class BoundTerm(Protocol):
    """What a lever adds to the scores of one pair's rows."""

    def add(self, steered: Steered, hidden: Tensor) -> Steered:
        """hidden (B, d): what the expert's logits were made of."""


class Term(Protocol):
    """A lever that acts on scores, such as `workers.levers.verdict.HeadTerm`."""

    weight: float

    def on(self, pair: ModelPair) -> BoundTerm: ...


@dataclass
class _Sample:
    """A sample being made."""

    index: int
    request: Request
    roles: tuple[RoleName, ...]
    tokens: list[int] = field(default_factory=list)


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
        head: Term | None = None,
        documents: DocumentCache | None = None,
    ) -> None:
        """trace: record why each token was chosen. should_stop: called with a row's tokens so
        far after each of them; True ends the row with "stop" (its tokens are left whole).
        head: acts on every request that does not say otherwise. documents: run the documents
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
        self._head = head.on(pair) if head is not None and head.weight > 0 else None

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
    def scores_after(self, request: Request, tokens: Sequence[int]) -> Tensor:
        """(V,) float32 scores, before temperature, of what may follow these tokens of a sample;
        MASKED: not plausible. Raises PromptError as `run` does."""
        longer = replace(
            request,
            prompt_ids=(*request.prompt_ids, *tokens),
            negative_ids=_longer(request.negative_ids, tokens),
            center_ids=_longer(request.center_ids, tokens),
        )
        one = copy(self)
        one._slots, one._sampling, one._trace = 1, Sampling(max_new_tokens=1), False
        batch = _Batch(one)
        batch.admit(iter([(0, longer)]))
        return batch.steered(0).scores[0]

    @torch.inference_mode()
    def along(self, request: Request, tokens: Sequence[int]) -> Iterator[Steered]:
        """What each of these tokens of a sample was chosen among, (1, V) rows, one token after
        the other. Raises PromptError as `run` does."""
        batch = _Batch(self)
        batch.admit(iter([(0, request)]))
        for at in range(len(tokens)):
            if at > 0:
                batch.go_on(0, tokens[at - 1])
            yield batch.steered(0)

    def roles(self, request: Request) -> tuple[RoleName, ...]:
        """The streams that a request needs; those with weight 0 are left out."""
        guidance = self._guidance
        negative = guidance.uses_negative and len(request.negative_ids) > 0
        centered = negative and guidance.uses_center and len(request.center_ids) > 0
        used = (True, guidance.uses_base, negative, centered)
        return tuple(role for role, use in zip(ROLES, used, strict=True) if use)

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


class _Batch:
    """The samples in the slots of one run, and the logits of their streams."""

    def __init__(self, decoder: SteerDecoder) -> None:
        self._decoder = decoder
        pair, self._device = decoder._pair, decoder._pair.device
        self._lanes = _lanes(decoder)
        self._samples: list[_Sample | None] = [None] * decoder._slots
        self._noise = Noise(pair.vocab_size, self._device)
        shape = (decoder._slots, decoder._sampling.max_new_tokens, 2)
        self._keys = torch.zeros(shape, dtype=torch.int32, device=self._device)
        self._traces = (
            Traces(pair, decoder._slots, decoder._sampling, decoder._head is not None)
            if decoder._trace
            else None
        )
        self._vocab = pair.vocab_size
        self._kernel = _kernel(self._device, decoder._guidance, decoder._sampling)

    def steered(self, slot: int) -> Steered:
        """What a slot's next token is chosen among, (1, V) rows."""
        at = torch.tensor([slot], device=self._device)
        return self._steer(self._sample(slot), at)[0]

    def go_on(self, slot: int, token: int) -> None:
        """Run a slot on with a token that was chosen before."""
        self._sample(slot).tokens.append(token)
        self._forward()

    @property
    def going(self) -> dict[int, tuple[int, ...]]:
        """The tokens so far of the samples in the slots, by the index of their request."""
        return {s.index: tuple(s.tokens) for s in self._samples if s is not None}

    @property
    def is_empty(self) -> bool:
        return all(sample is None for sample in self._samples)

    def admit(self, pending: Iterator[tuple[int, Request]]) -> None:
        """Pull a request for every free slot and prefill its streams."""
        wanted: list[tuple[int, RoleName, Context]] = []
        for slot, sample in enumerate(self._samples):
            if sample is not None:
                continue
            index, request = next(pending, (0, None))
            if request is None:
                break
            self._decoder.check(request)
            roles = self._decoder.roles(request)
            self._samples[slot] = _Sample(index, request, roles)
            wanted += [(slot, role, self._context(request, role)) for role in roles]
        if wanted:
            self._key(sorted({slot for slot, _, _ in wanted}))
            self._open(wanted)

    def _context(self, request: Request, role: RoleName) -> Context:
        """What a stream of a request goes on from."""
        if role not in ("negative", "center"):
            return Context(tuple(request.prompt_ids))
        ids, spans = request.negative_ids, request.negative_spans
        if role == "center":
            ids, spans = request.center_ids, request.center_spans
        if self._decoder.kv == "joint":
            return Context(tuple(ids))
        return apart(tuple(ids), spans, self._decoder._pair.bos_ids)

    def step(self) -> list[Completion]:
        """Choose one token per sample, end the rows that are done, run the others on."""
        live = [slot for slot, sample in enumerate(self._samples) if sample is not None]
        tokens, healthy = self._choose(live)
        finished = [
            completion
            for slot, token, ok in zip(live, tokens, healthy, strict=True)
            if (completion := self._accept(slot, token, ok)) is not None
        ]
        self._close([slot for slot in live if self._samples[slot] is None])
        self._forward()
        return finished

    def _accept(self, slot: int, token: int, healthy: bool) -> Completion | None:
        """Add a token to a sample; its completion when that ends it."""
        sample = self._sample(slot)
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
        self._samples[slot] = None
        return Completion(
            index=sample.index,
            token_ids=tuple(sample.tokens),
            finish_reason=reason,
            trace=self._traces.take(
                slot, len(sample.tokens), sample.roles, head=sample.request.head
            )
            if self._traces
            else None,
            error=_not_finite(sample) if reason == "error" else None,
        )

    @torch.inference_mode()
    def _choose(self, live: Sequence[int]) -> tuple[list[int], list[bool]]:
        """The next token of every live slot, and whether its logits are finite."""
        samples = [self._sample(slot) for slot in live]
        if self._kernel is not None and self._decoder._head is None:
            return self._choose_fused(self._kernel, live, samples)
        slots = torch.tensor(live, device=self._device)
        positions = torch.tensor([len(s.tokens) for s in samples], device=self._device)
        noise = self._noise.gumbel(self._keys[slots, positions])
        tokens = torch.zeros(len(live), dtype=torch.long, device=self._device)
        healthy = torch.ones(len(live), dtype=torch.bool, device=self._device)
        for group in _by_roles(samples):
            rows = _index(group, len(live), self._device)
            at = _index([live[i] for i in group], len(self._samples), self._device)
            steered, ok = self._steer(samples[group[0]], at)
            chosen = draw(steered.scores, self._decoder._sampling, noise[rows])
            tokens[rows], healthy[rows] = chosen, ok
            if self._traces:
                self._traces.add(slots[rows], positions[rows], steered, chosen, noise[rows])
        return tokens.tolist(), healthy.tolist()

    def _choose_fused(
        self, choose: Choose, live: Sequence[int], samples: Sequence[_Sample]
    ) -> tuple[list[int], list[bool]]:
        """The same in one kernel for all slots, whichever streams each has."""
        numbers = [
            live,
            [sum(1 << i for i, r in enumerate(ROLES[1:]) if r in s.roles) for s in samples],
            [len(s.tokens) for s in samples],
        ]
        slots, present, positions = torch.tensor(numbers).to(self._device)
        logits = {role: x for _, lane in self._lanes for role, x in lane.logits.items()}
        chosen = choose(
            logits,
            slots,
            present,
            self._keys[slots, positions],
            self._noise.tokens,
            self._decoder._guidance,
            self._decoder._sampling,
        )
        if self._traces:
            self._traces.put(slots, positions, chosen[:, :8])
        tokens, healthy = chosen[:, [0, 8]].int().T.tolist()
        return tokens, list(map(bool, healthy))

    def _steer(self, like: _Sample, at: Tensor | slice) -> tuple[Steered, Tensor]:
        """The scores of samples that have the streams and levers of one of them."""
        rows = {
            role: lane.logits[role][at]
            for names, lane in self._lanes
            for role in names
            if role in like.roles
        }
        logits = {role: row[:, : self._vocab] for role, row in rows.items()}
        finite = [stream.amax(dim=-1).isfinite() for stream in logits.values()]
        steered = steer(
            logits["expert"],
            logits.get("base"),
            logits.get("negative"),
            self._decoder._guidance,
            logits.get("center"),
        )
        if self._decoder._head is not None and like.request.head:
            steered = self._decoder._head.add(steered, rows["expert"][:, self._vocab :])
        return steered, torch.stack(finite).all(dim=0)

    @torch.inference_mode()
    def _key(self, slots: list[int]) -> None:
        """The keys of all draws of the samples that start in these slots."""
        seeds = torch.tensor([self._sample(slot).request.seed for slot in slots])
        keys = noise_keys(seeds[:, None], torch.arange(self._keys.shape[1]))
        self._keys[slots] = keys.to(self._device)

    @torch.inference_mode()
    def _open(self, wanted: Sequence[tuple[int, RoleName, Context]]) -> None:
        for names, lane in self._lanes:
            lane.open([item for item in wanted if item[1] in names])

    @torch.inference_mode()
    def _forward(self) -> None:
        tokens = {slot: s.tokens[-1] for slot, s in enumerate(self._samples) if s is not None}
        for _, lane in self._lanes:
            lane.step(tokens)

    @torch.inference_mode()
    def _close(self, slots: list[int]) -> None:
        for _, lane in self._lanes:
            lane.close(set(slots))

    def leave(self) -> None:
        """Leave the lanes to the next run; recording their steps again would take its time."""
        pair = self._decoder._pair
        if pair.recorder is not None:
            for _, lane in self._lanes:
                lane.clear()
            pair.idle[_size(self._decoder)] = self._lanes

    def _sample(self, slot: int) -> _Sample:
        sample = self._samples[slot]
        if sample is None:
            raise LookupError(f"slot {slot} is free")
        return sample


def _kernel(device: torch.device, guidance: Guidance, sampling: Sampling) -> Choose | None:
    """What chooses tokens in one kernel: on CUDA with triton, for the rules that it knows, and
    without filters."""
    known = guidance.rule in ("steer", "paper") and not sampling.filters
    if device.type != "cuda" or not known or find_spec("triton") is None:
        return None
    from . import fused

    return fused.choose


def _size(decoder: SteerDecoder) -> tuple[int, int, bool]:
    """Slots, columns, and whether hidden states are wanted beside logits."""
    return decoder._slots, decoder._sampling.max_new_tokens, decoder._head is not None


def _lanes(decoder: SteerDecoder) -> Lanes:
    """One lane for both models of a row-wise LoRA pair, two for two models; those of the last
    run, with what they have recorded, if they are of the same size and nobody uses them."""
    pair, size = decoder._pair, _size(decoder)
    slots, columns, hidden = size
    kept: Lanes | None = pair.idle.pop(size, None)
    pair.idle.clear()  # their memory is needed
    if kept is not None:
        for _, old in kept:
            old.documents = decoder._documents
        return kept
    banned = torch.tensor(pair.banned_ids, dtype=torch.long, device=pair.device)

    def lane(model: PreTrainedModel, *roles: RoleName) -> tuple[tuple[RoleName, ...], Lane]:
        rows = pair.rows if pair.kind == "lora" else None
        record = pair.recorder() if pair.recorder else None
        reads = hidden and "expert" in roles
        documents = decoder._documents
        return roles, Lane(
            model, roles, slots, columns, rows, banned, record, hidden=reads, documents=documents
        )

    if pair.kind == "lora":
        return [lane(pair.expert, "expert", "negative", "center", "base")]
    return [lane(pair.expert, "expert", "negative", "center"), lane(pair.base, "base")]


def _longer(context: Sequence[int], tokens: Sequence[int]) -> Sequence[int]:
    return (*context, *tokens) if len(context) > 0 else ()


def _by_roles(samples: Sequence[_Sample]) -> list[list[int]]:
    """Indices of samples grouped by the streams they have, and whether a head may act."""
    groups: dict[tuple[bool, tuple[RoleName, ...]], list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault((sample.request.head, sample.roles), []).append(i)
    return list(groups.values())


def _index(places: Sequence[int], count: int, device: torch.device) -> Tensor | slice:
    """What selects these places of `count`: a slice, which copies nothing, when it is all."""
    whole = len(places) == count and all(i == place for i, place in enumerate(places))
    return slice(count) if whole else torch.tensor(places, device=device)


def _not_finite(sample: _Sample) -> NumericalError:
    return NumericalError(
        f"the logits of request {sample.index} are not finite after {len(sample.tokens)} tokens: "
        "check the weights, or load them in float32"
    )
