"""Which token comes next: a step's logits steered and drawn from, for all slots at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from typing import Literal, Protocol

import torch
from torch import Tensor

from factory.guidance import Guidance, Sampling
from workers.models.pair import ModelPair
from workers.streams import GUIDING, RoleName

from .guidance import Steered, steer
from .records import Request, Trace
from .sampling import Noise, draw, noise_keys
from .traces import Traces

Choose = Callable[..., Tensor]  # see `fused.choose`
Logits = Mapping[RoleName, Tensor]  # of each stream; see `Lane.logits`


class BoundTerm(Protocol):
    """What a learned lever adds to the scores of one pair's rows.

    name    where `Steered` and `Trace` keep it
    roles   the streams that it needs beside the expert
    hidden  whether it needs what the expert's logits are made of
    """

    @property
    def name(self) -> Literal["head", "adapters"]: ...
    @property
    def roles(self) -> tuple[RoleName, ...]: ...
    @property
    def hidden(self) -> bool: ...

    def add(self, steered: Steered, streams: Logits, hidden: Tensor) -> Steered:
        """streams: (B, V) logits of each stream of these rows; hidden (B, d): what the expert's
        were made of, where a term needs that, else (B, 0)."""


class Term(Protocol):
    """A learned lever, such as `workers.levers.verdict.HeadTerm`."""

    weight: float

    def on(self, pair: ModelPair) -> BoundTerm: ...


@dataclass
class Sample:
    """A sample being made."""

    index: int
    request: Request
    roles: tuple[RoleName, ...]
    other: Sequence[int] = ()  # the tokens of the sample that this one is contrasted with
    tokens: list[int] = field(default_factory=list)

    @cached_property
    def present(self) -> int:
        """Bits 1, 2, 4: whether it has a base, negative, centre stream."""
        return sum(1 << i for i, role in enumerate(GUIDING) if role in self.roles)

    @property
    def other_token(self) -> Sequence[int]:
        """The other sample's token at the place of the last one here; none when it has ended."""
        return self.other[len(self.tokens) - 1 : len(self.tokens)]


class Chooser:
    """Chooses tokens of samples, by slot; the same kernel or torch code for all of a run."""

    def __init__(
        self,
        pair: ModelPair,
        guidance: Guidance,
        sampling: Sampling,
        slots: int,
        *,
        terms: Sequence[BoundTerm],
        trace: bool,
    ) -> None:
        self._guidance, self._sampling, self._terms = guidance, sampling, terms
        self._slots, self._vocab, self._device = slots, pair.vocab_size, pair.device
        self._noise = Noise(self._vocab, self._device)
        shape = (slots, sampling.max_new_tokens, 2)
        self._keys = torch.zeros(shape, dtype=torch.int32, device=self._device)
        names = [term.name for term in terms]
        self._traces = Traces(pair, slots, sampling, names) if trace else None
        self._kernel = None if terms else kernel(self._device, guidance, sampling)

    @torch.inference_mode()
    def start(self, samples: Mapping[int, Sample]) -> None:
        """Make the keys of all draws of samples that start in these slots."""
        seeds = torch.tensor([sample.request.seed for sample in samples.values()])
        keys = noise_keys(seeds[:, None], torch.arange(self._keys.shape[1]))
        self._keys[[*samples]] = keys.to(self._device)

    @torch.inference_mode()
    def choose(self, samples: Mapping[int, Sample], logits: Logits) -> tuple[list[int], list[bool]]:
        """The next token of every sample, and whether its logits are finite."""
        if self._kernel is not None:
            return self._choose_fused(self._kernel, samples, logits)
        live, rows_of = [*samples], [*samples.values()]
        masked = self._guidance.masks
        slots = torch.tensor(live, device=self._device)
        positions = torch.tensor([len(s.tokens) for s in rows_of], device=self._device)
        keys = self._keys[slots, positions]
        tokens = torch.zeros(len(live), dtype=torch.long, device=self._device)
        healthy = torch.ones(len(live), dtype=torch.bool, device=self._device)
        for group in _by_roles(rows_of):
            rows = _index(group, len(live), self._device)
            at = _index([live[i] for i in group], self._slots, self._device)
            steered, ok = self.steer(rows_of[group[0]], at, logits)
            noise = self._noise.gumbel(keys[rows], steered.keep if masked else None)
            chosen = draw(steered.scores, self._sampling, noise)
            tokens[rows], healthy[rows] = chosen, ok
            if self._traces:
                self._traces.add(slots[rows], positions[rows], steered, chosen, noise)
        return tokens.tolist(), healthy.tolist()

    def _choose_fused(
        self, choose: Choose, samples: Mapping[int, Sample], logits: Logits
    ) -> tuple[list[int], list[bool]]:
        """The same in one kernel for all slots, whichever streams each has."""
        rows = samples.values()
        numbers = [
            [*samples],
            [s.present for s in rows],
            [len(s.tokens) for s in rows],
        ]
        slots, present, positions = torch.tensor(numbers).to(self._device)
        keys, tokens = self._keys[slots, positions], self._noise.tokens
        settings = self._guidance, self._sampling
        chosen = choose(logits, slots, present, keys, tokens, *settings)
        if self._traces:
            self._traces.put(slots, positions, chosen[:, :8])
        ids, healthy = chosen[:, ::8].int().T.tolist()
        return ids, list(map(bool, healthy))

    def steer(self, like: Sample, at: Tensor | slice, logits: Logits) -> tuple[Steered, Tensor]:
        """The scores of slots whose samples have the streams and levers of one of them, and
        whether their logits are finite."""
        rows = {role: logits[role][at] for role in like.roles}
        streams = {role: row[:, : self._vocab] for role, row in rows.items()}
        hidden = rows["expert"][:, self._vocab :]
        finite = [stream.amax(dim=-1).isfinite() for stream in streams.values()]
        base, negative, center = (streams.get(role) for role in GUIDING)
        steered = steer(streams["expert"], base, negative, self._guidance, center)
        for term in self._terms if like.request.learned else ():
            steered = term.add(steered, streams, hidden)
        return steered, torch.stack(finite).all(dim=0)

    def trace(self, slot: int, sample: Sample) -> Trace | None:
        """What was remembered of a sample that has ended, if anything is."""
        if self._traces is None:
            return None
        learned = sample.request.learned
        return self._traces.take(slot, len(sample.tokens), sample.roles, learned=learned)


def kernel(device: torch.device, guidance: Guidance, sampling: Sampling) -> Choose | None:
    """What chooses tokens in one kernel: on CUDA with triton, for the rules that it knows, and
    without filters."""
    known = guidance.rule in ("steer", "paper") and not sampling.filters
    if device.type != "cuda" or not known or find_spec("triton") is None:
        return None
    from . import fused

    return fused.choose


def _by_roles(samples: Sequence[Sample]) -> list[list[int]]:
    """Indices of samples grouped by the streams they have, and whether learned levers act."""
    groups: dict[tuple[bool, tuple[RoleName, ...]], list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault((sample.request.learned, sample.roles), []).append(i)
    return list(groups.values())


def _index(places: Sequence[int], count: int, device: torch.device) -> Tensor | slice:
    """What selects these places of `count`: a slice, which copies nothing, when it is all."""
    whole = len(places) == count and all(i == place for i, place in enumerate(places))
    return slice(count) if whole else torch.tensor(places, device=device)
