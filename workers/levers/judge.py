"""What decides which finished texts are kept: the gates and the filter together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from workers.levers.filter import Filter
from workers.levers.gates import Gatekeeper


@dataclass(frozen=True)
class Judge:
    """What decides which finished texts are kept."""

    gatekeeper: Gatekeeper | None = None
    filter: Filter | None = None
    threshold: float = 0.0
    embed: Callable[[Sequence[str]], list[list[float]]] | None = None

    def reasons(self, texts: Sequence[str]) -> list[str | None]:
        """Why each text is filtered, in order; None: it is kept."""
        vectors = self.embed(texts) if self.embed is not None and texts else [None] * len(texts)
        return [self._reason(text, vector) for text, vector in zip(texts, vectors, strict=True)]

    def _reason(self, text: str, vector: list[float] | None) -> str | None:
        if self.filter is not None and vector is not None:
            score = float(self.filter.scores(np.array([vector], dtype=np.float32))[0])
            if score < self.threshold:
                return f"ranked too low by the filter: {score:.2f} of {self.threshold:.2f}"
        return self.gatekeeper.reason(text, vector) if self.gatekeeper is not None else None
