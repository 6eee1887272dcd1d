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
from workers.streams import kv, lane

PARTS: tuple[tuple[str, Any, str], ...] = (
    ("linear layers", nn.Linear, "forward"),
    ("linear layers", lora.RowSwitch, "forward"),
    ("attention", kv.Role, "attend"),
    ("prefill: attention", attention.Prefill, "attend"),
    ("prefill: linear, the rest", lane.Lane, "_prefill"),
    ("forward: norms, activations, transformers' Python", lane.Lane, "_forward"),
    ("steering and drawing", choosing.Chooser, "choose"),
    ("slots, shapes, copies", decoder._Batch, "step"),
    ("slots, shapes, copies", decoder._Batch, "admit"),
)
INSIDE_PREFILL = ("linear layers", "forward: norms, activations, transformers' Python")
SHOWN = 0.005


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

    forward   of three times the rows, without attention, over that of the rows themselves
    kernels   attention of the added rows, in bare kernels on as many keys as there are, no
              padding, no copies; steering; the prefill of contexts, each once for its group
    free      ratio of tokens a second with the forward's part alone: no engine passes it
    at best   with both: no engine on these kernels passes it
    lazy      time of a step with the others' rows run in chunks of four tokens, over one with
              them in every step; 1 or more: no gain
    """
    one, two, three = (forward_seconds(pair, n * load.slots, 1) for n in (1, 2, 3))
    chunk = forward_seconds(pair, 2 * load.slots, 4)
    together = three if pair.kind == "lora" else one + two
    kernels = attention_seconds(pair, load) + steering_seconds(pair, load, guidance)
    kernels += prefill_seconds(pair, load)
    step, hf = load.slots / rates["plain"], rates["plain"] / rates["hf-plain"]
    free, best = step / (step + together - one), step / (step + together - one + kernels)
    return {
        "forward, ms": one * 1e3,
        "forward of three times the rows, ms": together * 1e3,
        "kernels, ms": kernels * 1e3,
        "free: guided/plain": free,
        "free: guided/hf-plain": free * hf,
        "at best: guided/plain": best,
        "at best: guided/hf-plain": best * hf,
        "lazy": (one + chunk / 4) / together,
    }


@torch.inference_mode()
def attention_seconds(pair: ModelPair, load: Load) -> float:
    """Attention of the added rows in one step: products, softmax, products, on keys and values
    that every layer and stream has of its own, as in a step no cache holds them all."""
    config = pair.expert.config
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    groups, own = load.slots // load.group, load.tokens / 2  # tokens of its own behind a row
    shapes: list[tuple[int, int, int]] = []  # batch, queries, keys
    for role in load.roles:
        columns = round(own + (load.prompt if role == "base" else 0))
        shapes.append((load.slots, 1, columns))
        if role != "base":
            shapes.append((groups, load.group, round(load.context)))
    parts = [
        tuple(torch.randn(batch, heads, n, size) for n in (queries, keys, keys))
        for batch, queries, keys in shapes * config.num_hidden_layers
    ]
    return least(lambda: [(q @ k.mT).softmax(-1) @ v for q, k, v in parts])


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
    pair.rows.count = pair.rows.total = 8
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


@torch.inference_mode()
def forward_seconds(pair: ModelPair, rows: int, tokens: int) -> float:
    """Least processor time of a forward of the expert, of 20."""
    pair.rows.count = pair.rows.total = rows
    ids = torch.ones(rows, tokens, dtype=torch.long)
    return least(
        lambda: pair.expert(
            input_ids=ids,
            position_ids=torch.arange(tokens).expand(rows, tokens),
            attender=_Nothing(),
            use_cache=False,
        )
    )


def show(parts: dict[str, dict[str, float]], limits: dict[str, float]) -> None:
    for name, found in parts.items():
        cells = ", ".join(f"{label} {share:.0%}" for label, share in found.items() if share > SHOWN)
        print(f"    {name}: {cells}")  # noqa: T201
    print("    bounds:", ", ".join(f"{k} {v:.2f}" for k, v in limits.items()), flush=True)  # noqa: T201
