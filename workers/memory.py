"""How many rows fit into a device's memory, planned before the first is made.

What is planned is linear in the slots and in every length: keys and values of contexts and rows,
logits, traces, and what one step and one prefill take while they run.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from factory.guidance import Guidance, Sampling
from workers.models.pair import ModelPair
from workers.streams.lane import PREFILL_TOKENS, PREFILL_TOKENS_ELSEWHERE, RECORDED, RoleName
from workers.streams.plan import Grain

MARGIN = 0.1  # of free memory is left alone: fragments, libraries' workspaces, recorded steps
MOST = {"cpu": 64}  # slots; more make no CPU faster
MOST_ELSEWHERE = 256  # by then a GPU is busy with arithmetic, not with reading weights


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes that rows take at most. Lengths in tokens.

    contexts   of each role: how long, and how many slots share one
    new        tokens that a row holds in its own columns
    token      bytes of one token's keys and values, all layers
    width      bytes that one token takes while its forward runs, beside its attention
    scores     bytes of its attention weights
    windowed   whether a prefill makes attention weights, too
    prefill    tokens of one prefill forward
    """

    contexts: Mapping[RoleName, tuple[int, int]]
    new: int
    vocab: int
    token: int
    width: int
    scores: int
    windowed: bool
    prefill: int
    grain: Grain

    def held(self, slots: int) -> int:
        """What stays while rows run: keys, values, logits, traces. Buffers of contexts double
        when they grow, and the next ones come before the last ones go."""
        tokens = sum(
            2 * (-(-slots // shared) + 1) * _rounded(length, self.grain.width)
            + slots * _rounded(self.new, self.grain.columns)
            for length, shared in self.contexts.values()
        )
        logits = len(self.contexts) * (slots + 1) * self.vocab * 4
        return tokens * self.token + logits + slots * self.new * 8 * 4

    def passing(self, slots: int) -> int:
        """What a step or a prefill takes while it runs, whichever is more."""
        rows = slots * len(self.contexts)
        step = rows * (self.width + self.scores + self.vocab * 8) + slots * self.vocab * 4 * 8
        tokens = max(self.prefill, *(length for length, _ in self.contexts.values()))
        each = self.width + self.token + self.windowed * self.scores
        return max(step, tokens * each + rows * self.vocab * 8)

    def bytes(self, slots: int) -> int:
        """All that `slots` rows take."""
        return self.held(slots) + self.passing(slots)

    def slots(self, free: int, most: int) -> int:
        """The largest number of slots, `most` at most, that fits into `free` bytes; 1 when none
        does: then only trying tells."""
        room = free * (1 - MARGIN)
        return max((n for n in range(1, most + 1) if self.bytes(n) <= room), default=1)


def plan(
    pair: ModelPair,
    guidance: Guidance,
    sampling: Sampling,
    contexts: Mapping[RoleName, tuple[int, int]],
) -> MemoryPlan:
    """The plan of a pair's rows; contexts: of the roles that samples may have, how long at most
    and how many slots share one. A layer holds all tokens, also one that sees but a window."""
    config = pair.expert.config.get_text_config()
    heads, hidden, item = config.num_attention_heads, config.hidden_size, pair.dtype.itemsize
    size = getattr(config, "head_dim", None) or hidden // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    weights = {"base": guidance.gamma, "negative": guidance.eta, "center": guidance.eta}
    used = {role: what for role, what in contexts.items() if weights.get(role, 1) != 0}
    new = sampling.max_new_tokens
    return MemoryPlan(
        contexts=used,
        new=new,
        vocab=pair.vocab_size,
        token=config.num_hidden_layers * kv_heads * size * 2 * item,
        width=(8 * hidden + 4 * inner) * item,  # a layer's own, and a LoRA's part of it
        scores=heads * (max(length for length, _ in used.values()) + new) * (8 + 2 * item),
        windowed=bool(getattr(config, "sliding_window", None)),
        prefill=PREFILL_TOKENS.get(pair.device.type, PREFILL_TOKENS_ELSEWHERE),
        grain=RECORDED if pair.recorder else Grain(),
    )


def most_slots(device: torch.device) -> int:
    """More slots than this make no device faster."""
    return MOST.get(device.type, MOST_ELSEWHERE)


def _rounded(count: int, grain: int) -> int:
    return -(-count // grain) * grain
