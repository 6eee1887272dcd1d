"""All streams of a run, whichever weights they go through."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from workers.models.pair import ModelPair

from .documents import Context, DocumentCache
from .lane import ATTACHED, Lane, RoleName
from .likeness import Likeness


class Streams:
    """One lane for both models of a row-wise LoRA pair, two for two models."""

    def __init__(
        self,
        pair: ModelPair,
        slots: int,
        columns: int,
        documents: DocumentCache | None,
        *,
        hidden: bool,
        likeness: bool = False,
    ) -> None:
        """columns: tokens that a row generates at most. hidden: the expert's rows of logits go on
        with what they are made of. documents: where those that are run apart are kept. likeness:
        the negative stream tells how alike a text becomes to its documents; no model runs it.

        The lanes are those of the last run, with what they have recorded, if they are of the
        same size and nobody uses them."""
        self._pair, self._size = pair, (slots, columns, hidden)
        kept: list[Lane] | None = pair.idle.pop(self._size, None)
        pair.idle.clear()  # their memory is needed
        self._lanes = kept or self._new_lanes()
        for lane in self._lanes:
            lane.documents = documents
        of = slots, pair.vocab_size, pair.eos_ids, pair.device
        self._likeness = Likeness(*of) if likeness else None

    @property
    def logits(self) -> Mapping[RoleName, Tensor]:
        """What each stream's next tokens are chosen by; see `Lane` and `Likeness`."""
        found = {role: x for lane in self._lanes for role, x in lane.logits.items()}
        return found if self._likeness is None else found | self._likeness.logits

    @torch.inference_mode()
    def open(self, wanted: Sequence[tuple[int, RoleName, Context]]) -> None:
        """Start a row per (slot, role, context)."""
        if self._likeness is not None:
            self._likeness.open([item for item in wanted if item[1] == "negative"])
            wanted = [item for item in wanted if item[1] != "negative"]
        for lane in self._lanes:
            lane.open([item for item in wanted if item[1] in lane.roles])

    @torch.inference_mode()
    def step(self, tokens: Mapping[int, int], other: Mapping[int, int] | None = None) -> None:
        """Go on by one token (slot → token) in every stream. other: the negative streams' tokens
        where those are another sample's; where that one has ended, its stream is the expert's."""
        if self._likeness is not None:
            self._likeness.step(tokens)
        theirs = None if other is None else {**tokens, **other}
        for lane in self._lanes:
            lane.step(tokens, theirs)
            if other is not None and "negative" in lane.logits:
                ended = [slot for slot in tokens if slot not in other]
                lane.logits["negative"][ended] = lane.logits["expert"][ended]

    @torch.inference_mode()
    def close(self, slots: set[int]) -> None:
        """End all rows of these slots."""
        if self._likeness is not None:
            self._likeness.close(slots)
        for lane in self._lanes:
            lane.close(slots)

    def leave(self) -> None:
        """Leave the lanes to the next run; recording their steps again would take its time."""
        if self._pair.recorder is not None:
            for lane in self._lanes:
                lane.clear()
            self._pair.idle[self._size] = self._lanes

    def _new_lanes(self) -> list[Lane]:
        pair = self._pair
        experts: tuple[RoleName, ...] = ("expert", "negative", "center")
        if pair.kind == "lora":
            return [self._lane(pair.expert, *experts, *ATTACHED, "base")]
        return [self._lane(pair.expert, *experts), self._lane(pair.base, "base")]

    def _lane(self, model: PreTrainedModel, *roles: RoleName) -> Lane:
        pair, (slots, columns, hidden) = self._pair, self._size
        banned = torch.tensor(pair.banned_ids, dtype=torch.long, device=pair.device)
        rows = pair.rows if pair.kind == "lora" else None
        record = pair.recorder() if pair.recorder else None
        reads = hidden and "expert" in roles
        return Lane(model, roles, slots, columns, rows, banned, record, hidden=reads)
