"""What is remembered of every step, so that a sample can say why each token was chosen."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from factory.guidance import Sampling
from workers.models.pair import ModelPair
from workers.streams import GUIDING, MASKED, RoleName

from .guidance import Steered
from .records import Floats, Trace
from .sampling import draw


class Traces:
    """What is remembered of every step: (slots, max_new_tokens, 8) float32 on the device, and a
    column more for each term that levers add.

    Token ids and counts are whole numbers below 2**24, exact in float32.
    """

    def __init__(
        self, pair: ModelPair, slots: int, sampling: Sampling, terms: Sequence[str]
    ) -> None:
        """terms: their names."""
        self._sampling = sampling
        self._terms = terms
        shape = (slots, sampling.max_new_tokens, 8 + len(terms))
        self._columns = torch.zeros(shape, device=pair.device)

    def add(
        self, slots: Tensor, positions: Tensor, steered: Steered, chosen: Tensor, noise: Tensor
    ) -> None:
        """Record one step of the rows in `slots`."""
        expert = torch.where(steered.keep, steered.expert, MASKED)
        unguided = draw(expert, self._sampling, noise)
        streams = (steered.expert, steered.base, steered.negative, steered.center, steered.scores)
        rows, vocab = expert.shape
        at = torch.arange(rows, device=chosen.device) * vocab + chosen
        picked = [_of(x, at) for x in streams]
        counts = [chosen, *picked, unguided, steered.keep.sum(dim=-1)]
        counts += [_of(getattr(steered, name), at) for name in self._terms]
        self.put(slots, positions, torch.stack([c.float() for c in counts], dim=-1))

    def put(self, slots: Tensor, positions: Tensor, columns: Tensor) -> None:
        """Keep columns of one step: token, E, B, N, C, score, unguided, survivors, terms."""
        self._columns[slots, positions] = columns

    def take(self, slot: int, length: int, roles: Collection[RoleName], *, learned: bool) -> Trace:
        """The trace of a sample of so many tokens that has ended; its streams; whether learned
        levers acted on it."""
        columns: Floats = self._columns[slot, :length].cpu().numpy().T.copy()
        ints = [columns[i].astype("int32") for i in (0, 6, 7)]
        there = dict(zip(GUIDING, columns[2:5], strict=True))
        terms = dict(zip(self._terms, columns[8:], strict=True)) if learned else {}
        return Trace(
            tokens=ints[0],
            expert=columns[1],
            base=there["base"] if "base" in roles else None,
            negative=there["negative"] if "negative" in roles else None,
            center=there["center"] if "center" in roles else None,
            scores=columns[5],
            unguided=ints[1],
            survivors=ints[2],
            head=terms.get("head"),
            adapters=terms.get("adapters"),
        )


def _of(stream: Tensor | None, at: Tensor) -> Tensor:
    """(B, V) to (B,): the numbers at these places of all B · V; 0 without the stream."""
    return at * 0.0 if stream is None else stream.take(at)
