"""What acts on the rows of one attempt, and what acted on a sample, recalled from its provenance.

What acts is kept by its digest (`store`), and `Acting.uses` goes into the attempt's row, so that a
sample can be made again whatever was fitted since.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from factory.feedback import Window
from factory.settings import Settings
from factory.spec import GenerateSpec
from workers.decoding import ModelPair, Term
from workers.levers import store
from workers.levers.adapters import Adapters, AdaptersTerm
from workers.levers.judge import Judge
from workers.levers.verdict import HeadTerm, VerdictHead

ALL = Window()

Use = dict[str, Any]


@dataclass(frozen=True)
class Acting:
    """Levers at work. `uses`: what provenance says of them; `eta` multiplies the job's η."""

    uses: tuple[Use, ...] = ()
    eta: float = 1.0
    center: bool | None = None
    head: HeadTerm | None = None
    adapters: AdaptersTerm | None = None
    window: Window = ALL
    judge: Judge | None = None

    @property
    def terms(self) -> tuple[Term, ...]:
        """What acts on scores."""
        return tuple(term for term in (self.head, self.adapters) if term is not None)

    def attach(self, models: ModelPair) -> None:
        """Have a pair hold the adapters that act, if any do, and none of those that do not: their
        memory counts when slots are planned."""
        if self.adapters is None:
            models.attach()
        else:
            self.adapters.on(models)

    def applied(self, spec: GenerateSpec) -> GenerateSpec:
        """The spec that guided rows are made with."""
        eta = min(spec.guidance.eta * self.eta, 10.0)
        center = spec.negatives.center if self.center is None else self.center
        guidance = spec.guidance.model_copy(update={"eta": eta})
        negatives = spec.negatives.model_copy(update={"center": center})
        return spec.model_copy(update={"guidance": guidance, "negatives": negatives})


def recalled(settings: Settings, uses: Sequence[Use]) -> Acting:
    """What acted on a sample's tokens, from its provenance. Raises ModelError."""
    by_name = {use["name"]: use for use in uses}
    fitted = {name: use for name, use in by_name.items() if use["digest"]}
    negatives = by_name.get("negatives")
    head, adapters = fitted.get("verdict_head"), fitted.get("adapters")
    return Acting(
        tuple(uses),
        eta=negatives["weight"] if negatives else 1.0,
        head=head_of(settings, head) if head else None,
        adapters=adapters_of(settings, adapters) if adapters else None,
    )


def head_of(settings: Settings, use: Use) -> HeadTerm:
    """The verdict head that provenance names. Raises ModelError."""
    kept = store.recall(settings, use["digest"])
    return HeadTerm(VerdictHead(**kept), use["weight"], use["cap"])


def adapters_of(settings: Settings, use: Use) -> AdaptersTerm:
    """The adapters that provenance names. Raises ModelError."""
    kept = store.recall(settings, use["digest"])
    return AdaptersTerm(Adapters.of(use["digest"], kept), use["weight"], use["cap"])
