"""Accepted-minus-rejected adapters: the expert tuned on either verdict, steered by the difference.

With A and R the log-probabilities of the expert's adapter tuned on accepted and on rejected texts,
each from the expert itself,

    f = A − R          s = E + ρ f

after DExperts (Liu et al., arXiv 2105.03023), whose experts are models of their own. Both adapters
run on the expert's copy of the weights, as rows of the same forward. ρ is lowered for each row at
each step until the expert is moved by no more than a cap, as for the verdict head.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from workers.decoding import ATTACHED, Logits, RoleName, Steered, log_probs
from workers.levers.verdict import capped
from workers.models.lora import Adapter, LowRank
from workers.models.pair import ModelPair


@dataclass(frozen=True, eq=False)
class Adapters:
    """Two adapters of one expert; `key` tells them from others, as their digest does."""

    key: str
    accepted: Adapter
    rejected: Adapter

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All in one: `accepted/<layer>/down` and so on."""
        return {
            f"{verdict}/{layer}/{side}": tensor
            for verdict in ATTACHED
            for layer, part in getattr(self, verdict).items()
            for side, tensor in vars(part).items()
        }

    @classmethod
    def of(cls, key: str, tensors: Mapping[str, Tensor]) -> "Adapters":
        """Undo `tensors`."""
        parts: dict[str, dict[str, dict[str, Tensor]]] = {verdict: {} for verdict in ATTACHED}
        for name, tensor in tensors.items():
            verdict, layer, side = name.split("/")
            parts[verdict].setdefault(layer, {})[side] = tensor
        sides = ({at: LowRank(**both) for at, both in parts[v].items()} for v in ATTACHED)
        return cls(key, *sides)


class AdaptersTerm:
    """Adapters that steer with weight ρ within `cap` nats a token."""

    def __init__(self, adapters: Adapters, weight: float, cap: float) -> None:
        """Raises ValueError for a weight below 0 or a cap of 0 or less."""
        if weight < 0 or not cap > 0:
            raise ValueError(f"weight must be 0 or more and cap above 0, not {weight} and {cap}")
        self.adapters = adapters
        self.weight = weight
        self.cap = cap

    def on(self, pair: ModelPair) -> "_Bound":
        """The adapters attached to this pair, in the place of any others. Raises ModelError when
        they were tuned from another expert, or this one is no LoRA adapter."""
        found = self.adapters
        pair.attach(found.key, (found.accepted, found.rejected))
        return _Bound(pair, found.key, self.weight, self.cap)


@dataclass(frozen=True, eq=False)
class _Bound:
    pair: ModelPair
    key: str
    weight: float
    cap: float
    name: Literal["adapters"] = "adapters"
    roles: tuple[RoleName, ...] = ATTACHED
    hidden: bool = False

    def add(self, steered: Steered, streams: Logits, hidden: Tensor) -> Steered:
        """The scores with ρ(A − R) added; the mask is what it was. Raises LookupError when others
        were attached to the pair meanwhile."""
        if self.pair.rows.attached != self.key:
            raise LookupError("other adapters were attached to the pair while these steered rows")
        accepted, rejected = (log_probs(streams[role]) for role in ATTACHED)
        term = capped(steered, accepted - rejected, self.weight, self.cap)
        return replace(steered, scores=steered.scores + term, adapters=term)
