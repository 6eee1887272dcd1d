"""Texts of a preview while they are made: one side with guidance, one without."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workers.decoding import Completion, Step, Trace
from workers.generate import Composer, Row


@dataclass
class Side:
    """The rows of one side, made step by step."""

    composer: Composer
    rows: Sequence[Row]
    _made: dict[int, dict[str, Any]] = field(default_factory=dict, init=False)
    _going: Mapping[int, Sequence[int]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        decoder = self.composer.decoder(len(self.rows), trace=True)
        self._steps: Iterator[Step] = decoder.steps(row.request for row in self.rows)

    def advance(self) -> bool:
        """Make one more token of each row; False when all rows have ended."""
        step = next(self._steps, None)
        if step is None:
            return False
        for completion in step.finished:
            row = self.rows[completion.index]
            self._made[completion.index] = _previewed(row, completion, self.composer)
        self._going = step.going
        return True

    def texts(self) -> list[dict[str, Any]]:
        """The texts so far, by ordinal; those that are not whole yet are marked `partial`."""
        going = {
            index: {
                "ordinal": self.rows[index].ordinal,
                "seed": self.rows[index].seed,
                "text": self.composer.text(tokens),
                "tokens": len(tokens),
                "partial": True,
            }
            for index, tokens in self._going.items()
        }
        return [text for _, text in sorted((self._made | going).items())]


def _previewed(row: Row, completion: Completion, composer: Composer) -> dict[str, Any]:
    return {
        "ordinal": row.ordinal,
        "seed": row.seed,
        "text": composer.text(completion.token_ids),
        "tokens": len(completion.token_ids),
        "finish_reason": completion.finish_reason,
        "surprise": _surprise(completion.trace),
        "negatives": [str(document.id) for document in row.negatives],
        "center": [str(document.id) for document in row.center],
    }


def _surprise(trace: Trace | None) -> float | None:
    """How little the expert expects a text: mean of −E over its tokens, in nats."""
    return -float(trace.expert.mean()) if trace is not None and len(trace.expert) else None
