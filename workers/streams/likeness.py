"""How alike a text would become to others: the negative stream of the rule "avoidance".

No model runs it. After the paper's idea of a penalty on similarity to earlier outputs (arXiv
2509.02170), told from tokens so that it costs next to nothing. With run(v) the longest end of the
text, v its last token, that stands in one of the documents,

    S(v) = min(run(v), LONGEST) / LONGEST,     0 for tokens that end a text
"""

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from .documents import Context
from .lane import RoleName

LONGEST = 4  # tokens in common from which on a text counts as a copy


class Likeness:
    """Stands in a lane's place for the role "negative". logits: (slots + 1, V), S of each slot."""

    def __init__(self, slots: int, vocab: int, ends: Collection[int], device: torch.device) -> None:
        """ends: tokens that end a text, whose likeness says nothing."""
        self._ends = [*ends]
        self._documents: dict[int, _Documents] = {}  # by slot
        rows = torch.zeros(slots + 1, vocab, device=device)
        self.logits: dict[RoleName, Tensor] = {"negative": rows}

    def open(self, wanted: Sequence[tuple[int, RoleName, Context]]) -> None:
        """Start a row per slot, its text empty."""
        for slot, _, context in wanted:
            self._documents[slot] = _Documents(context)
            self._tell(slot)

    def step(self, tokens: Mapping[int, int]) -> None:
        """Go on by one token (slot → token) in every row."""
        for slot in self._documents.keys() & tokens.keys():
            self._documents[slot].follow(tokens[slot])
            self._tell(slot)

    def close(self, slots: set[int]) -> None:
        """End the rows of these slots."""
        for slot in slots:
            self._documents.pop(slot, None)

    def _tell(self, slot: int) -> None:
        """Write a slot's S."""
        rows = self.logits["negative"]
        likeness = self._documents[slot].likeness(rows.shape[1])
        likeness[self._ends] = 0
        rows[slot] = likeness.to(rows)


class _Documents:
    """One row's documents, and how long its text agrees with them before each of their places."""

    def __init__(self, context: Context) -> None:
        self._ids = torch.tensor(context.ids[: sum(context.spans)])
        self._starts = torch.tensor([0, *context.spans[:-1]]).cumsum(0)
        self._run = torch.zeros_like(self._ids)

    def follow(self, token: int) -> None:
        """Go on by a token of the text."""
        self._run = torch.where(self._ids == token, self._run + 1, 0).roll(1)
        self._run[self._starts] = 0

    def likeness(self, vocab: int) -> Tensor:
        """(V,) min(run(v), LONGEST) / LONGEST."""
        runs = (self._run + 1).clamp(max=LONGEST) / LONGEST
        return torch.zeros(vocab).scatter_reduce_(0, self._ids, runs, "amax")
