"""Where the engine's time goes, and what it cannot be under. Used by `steer_speed.py --profile`."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from factory.guidance import Guidance
from workers.decoding import ModelPair, RoleName, choosing, decoder, steer_scores
from workers.models import attention, lora
from workers.streams import compiled, lane
from workers.streams.compiled import Compiled
from workers.streams.documents import Context
from workers.streams.kv import Role
from workers.streams.plan import Grain, Plan

PARTS: tuple[tuple[str, Any, str], ...] = (
    ("linear layers", nn.Linear, "forward"),
    ("linear layers", lora.RowLora, "forward"),
    ("attention", compiled.Together, "attend"),
    ("prefill: attention", attention.Prefill, "attend"),
    ("prefill: linear, the rest", lane.Lane, "_prefill"),
    ("forward: norms, activations, transformers' Python", lane.Lane, "_forward"),
    ("steering and drawing", choosing.Chooser, "choose"),
    ("slots, shapes, copies", decoder._Batch, "step"),
    ("slots, shapes, copies", decoder._Batch, "admit"),
)
INSIDE_PREFILL = ("linear layers", "forward: norms, activations, transformers' Python")
SHOWN = 0.005
SHORT = ("expert", "base")  # streams whose context is the prompt


def shares(call: Callable[[], int]) -> dict[str, float]:
    """Share of the time of a run that each part took itself, most first."""
    spent: Counter[str] = Counter()
    inner: list[tuple[str, float]] = []

    def timed(label: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **named: Any) -> Any:
            within = any(name == PARTS[4][0] for name, _ in inner)
            part = PARTS[4][0] if within and label in INSIDE_PREFILL else label
            inner.append((part, 0.0))
            start = time.process_time()
            try:
                return function(*args, **named)
            finally:
                took = time.process_time() - start
                spent[part] += took - inner.pop()[1]
                if inner:
                    inner[-1] = inner[-1][0], inner[-1][1] + took

        return run

    with ExitStack() as patched:
        for label, owner, name in PARTS:
            patched.enter_context(patch.object(owner, name, timed(label, getattr(owner, name))))
        start = time.process_time()
        call()
        total = time.process_time() - start
    return {label: seconds / total for label, seconds in spent.most_common()}


@dataclass(frozen=True)
class Load:
    """What a step of guided decoding has to do. roles: streams beside the expert's; context:
    tokens of a negative or centre context, which `group` samples share; prompt, tokens: of a
    sample, on average."""

    roles: tuple[RoleName, ...]
    slots: int
    group: int
    context: float
    prompt: int
    tokens: float


def bounds(
    pair: ModelPair, load: Load, guidance: Guidance, rates: dict[str, float]
) -> dict[str, float]:
    """What the other streams cost at least, beside what our own unguided step takes.

    forward   of all rows, over that of the expert's alone, without any attention
    kernels   what is added by bare kernels in their places: attention; scores of all streams;
              contexts, each run once a group
    free      ratio of tokens a second with the forward's part alone: no engine passes it
    at best   with both: no engine on these kernels passes it
    lazy      time of a step with the others' rows run in chunks of four tokens, over one with
              them in every step; 1 or more: no gain
    """
    slots, base = load.slots, load.slots * ("base" in load.roles)
    one, two = (forward_seconds(pair, n * slots, 1) for n in (1, 2))
    three = forward_seconds(pair, 3 * slots, 1, base=base)
    chunk = forward_seconds(pair, 2 * slots, 4, base=base)
    together = three if pair.kind == "lora" else one + two
    attended = [
        forward_seconds(pair, slots, 1, attending(pair, load, 1)) - one,
        forward_seconds(pair, 3 * slots, 1, attending(pair, load, 3), base=base) - three,
    ]
    added = attended[1] - attended[0]
    others = steering_seconds(pair, load, guidance) + prefill_seconds(pair, load)
    step, hf = load.slots / rates["plain"], rates["plain"] / rates["hf-plain"]
    free = step / (step + together - one)
    best = step / (step + together - one + added + others)
    return {
        "forward, ms": one * 1e3,
        "forward of three times the rows, ms": together * 1e3,
        "added attention, ms": added * 1e3,
        "added scores and contexts, ms": others * 1e3,
        "free: guided/plain": free,
        "free: guided/hf-plain": free * hf,
        "at best: guided/plain": best,
        "at best: guided/hf-plain": best * hf,
        "lazy": (one + chunk / 4) / together,
    }


@torch.inference_mode()
def steering_seconds(pair: ModelPair, load: Load, guidance: Guidance) -> float:
    """Scores from all streams, beyond what they take from the expert's alone."""
    expert, other = (torch.randn(load.slots, pair.vocab_size) for _ in range(2))
    streams = dict.fromkeys(load.roles, other)
    off = Guidance(eta=0, nucleus=guidance.nucleus)
    base, negative, center = (streams.get(role) for role in ("base", "negative", "center"))
    with_all = least(lambda: steer_scores(expert, base, negative, guidance, center))
    return with_all - least(lambda: steer_scores(expert, None, None, off))


@torch.inference_mode()
def prefill_seconds(pair: ModelPair, load: Load) -> float:
    """A step's share of running contexts, eight in a forward, each for a whole group."""
    pair.rows.split(8, 8)
    ids = torch.ones(8, round(load.context), dtype=torch.long)
    positions = torch.arange(ids.shape[1]).expand_as(ids)

    def run() -> None:
        attender = attention.Prefill()
        pair.expert(
            input_ids=ids,
            position_ids=positions,
            attender=attender,
            use_cache=False,
            logits_to_keep=1,
        )

    contexts = sum(role != "base" for role in load.roles) / load.group
    return least(run) / 8 * contexts * load.slots / load.tokens


def least(call: Callable[[], object]) -> float:
    """The least processor time of 20 calls."""
    best = float("inf")
    for _ in range(20):
        start = time.process_time()
        call()
        best = min(best, time.process_time() - start)
    return best


class _Nothing:
    """Attention that costs nothing."""

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: attention.Scoring
    ) -> Tensor:
        return query


def attending(pair: ModelPair, load: Load, streams: int) -> attention.Attender:
    """Our loops alone, at rows that have half of their tokens; keys and values are every layer's
    and stream's own, as they are where they work."""
    config = pair.expert.config
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    roles = []
    for name in ("expert", *load.roles)[:streams]:
        role = Role(load.slots, round(load.tokens), Grain(fused=True))
        length, groups = round(load.context), load.slots // load.group
        if name in SHORT:
            length, groups = load.prompt, 1
        contexts = [Context((i,) * length) for i in range(groups)]
        for context in contexts:
            layers = {
                layer: (torch.randn(1, heads, length, size), torch.randn(1, heads, length, size))
                for layer in range(config.num_hidden_layers)
            }
            role.add_context(context, layers, 0)
        role.open([(slot, contexts[slot * groups // load.slots]) for slot in range(load.slots)])
        roles.append(role)
    tokens = dict.fromkeys(range(load.slots), 1)
    for _ in range(round(load.tokens / 2)):
        steps = [role.step(tokens) for role in roles]
    plans = [Plan(shape, torch.from_numpy(integers)) for shape, integers in steps]
    kernels = Compiled(roles)
    numbers, rows = kernels.arrange(dict(enumerate(roles)))
    return kernels.attender(numbers, torch.from_numpy(rows), plans)


@torch.inference_mode()
def forward_seconds(
    pair: ModelPair,
    rows: int,
    tokens: int,
    attender: attention.Attender | None = None,
    *,
    base: int = 0,
) -> float:
    """Least processor time of a forward, of 20; without an attender, no attention. base: rows of
    a LoRA pair's base among them."""
    pair.rows.split(rows, rows - base)
    ids = torch.ones(rows, tokens, dtype=torch.long)
    return least(
        lambda: pair.expert(
            input_ids=ids,
            position_ids=torch.arange(tokens).expand(rows, tokens),
            attender=attender or _Nothing(),
            use_cache=False,
        )
    )


def show(parts: dict[str, dict[str, float]], limits: dict[str, float]) -> None:
    for name, found in parts.items():
        cells = ", ".join(f"{label} {share:.0%}" for label, share in found.items() if share > SHOWN)
        print(f"    {name}: {cells}")  # noqa: T201
    print("    bounds:", ", ".join(f"{k} {v:.2f}" for k, v in limits.items()), flush=True)  # noqa: T201
