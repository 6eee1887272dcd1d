"""Where the engine's time goes, and what it cannot be under. Used by `steer_speed.py --profile`."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from workers.decoding import ModelPair, choosing, decoder, kv, lane
from workers.models import attention, lora

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


def bounds(pair: ModelPair, slots: int, rates: dict[str, float]) -> dict[str, float]:
    """What the other streams' rows cost at least: a forward of three times the rows, without
    any attention, drawing or prefill, beside a forward of the rows that unguided decoding has.

    guided/plain, guided/hf-plain  ratios of tokens a second that no engine on these kernels passes
    lazy                           time of a step with the others' rows run in chunks of four
                                   tokens, over one with them in every step; 1 or more: no gain
    """
    one, two, three = (forward_seconds(pair, n * slots, 1) for n in (1, 2, 3))
    chunk = forward_seconds(pair, 2 * slots, 4)
    together = three if pair.kind == "lora" else one + two
    step = slots / rates["plain"]
    bound = step / (step + together - one)
    return {
        "forward, ms": one * 1e3,
        "forward of three times the rows, ms": together * 1e3,
        "guided/plain": bound,
        "guided/hf-plain": bound * rates["plain"] / rates["hf-plain"],
        "lazy": (one + chunk / 4) / together,
    }


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
    best = float("inf")
    for _ in range(20):
        start = time.process_time()
        pair.expert(
            input_ids=ids,
            position_ids=torch.arange(tokens).expand(rows, tokens),
            attender=_Nothing(),
            use_cache=False,
        )
        best = min(best, time.process_time() - start)
    return best


def show(parts: dict[str, dict[str, float]], limits: dict[str, float]) -> None:
    for name, found in parts.items():
        cells = ", ".join(f"{label} {share:.0%}" for label, share in found.items() if share > SHOWN)
        print(f"    {name}: {cells}")  # noqa: T201
    print("    at best:", ", ".join(f"{k} {v:.2f}" for k, v in limits.items()), flush=True)  # noqa: T201
