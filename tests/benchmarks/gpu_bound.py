"""What no guided engine on a device's own products and memory can pass: our own unguided step
and, on top of it, the least that two more streams cost.

    products   the linear layers with three times the rows, less the same with the rows alone
    memory     keys and values of the added rows and of the contexts, read once each, at the rate of
               a copy within the device
    contexts   the linear layers over the negative contexts, once for all tokens of a row

Each is timed alone, as one recorded step. Norms, rotations, the adapter's second product, drawing
and everything else that added rows or streams cost is taken to be free.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from workers.decoding import ModelPair
from workers.models.graphs import CudaGraphs
from workers.models.inside import output_embeddings
from workers.models.lora import RowLora

TIMES = 10
COPIED = 2**31  # bytes


@dataclass(frozen=True)
class Work:
    """A benchmark's rows: how many, tokens that each makes, tokens of a context and of the prompt,
    and rows that share a context."""

    rows: int
    new: int
    context: int
    prompt: int
    group: int

    @property
    def read(self) -> int:
        """Tokens whose keys and values a step's added rows read: their own, half of `new` in the
        mean, and each context once."""
        return self.rows * self.new + self.tokens

    @property
    def tokens(self) -> int:
        """Tokens of all contexts of the added streams."""
        return -(-self.rows // self.group) * self.context + self.prompt


def at_best(pair: ModelPair, work: Work, unguided: float) -> float:
    """The share of our own unguided rate that is left at best. unguided: its seconds a step."""
    products = seconds(pair, 3 * work.rows) - seconds(pair, work.rows)
    memory = work.read * _token_bytes(pair) / _bandwidth(pair.device)
    contexts = seconds(pair, work.tokens, head=False) / work.new
    return unguided / (unguided + max(products, 0.0) + memory + contexts)


@torch.inference_mode()
def seconds(pair: ModelPair, rows: int, *, head: bool = True) -> float:
    """Of the products of all linear layers (and of the output layer) with so many rows."""
    layers = [m for m in pair.expert.modules() if isinstance(m, RowLora)]
    weights = [m.joined for m in layers] + ([output_embeddings(pair.expert)] if head else [])
    inputs = {
        width: torch.randn(rows, width, device=pair.device).to(pair.dtype)
        for width in {w.shape[1] for w in weights}
    }

    def run(_: Tensor) -> None:
        for weight in weights:
            nn.functional.linear(inputs[weight.shape[1]], weight)

    return _timed(run, pair.device)


def _timed(run: Callable[[Tensor], None], device: torch.device) -> float:
    nothing = torch.zeros(1, device=device)
    run(nothing)
    again = CudaGraphs()(run, nothing) if device.type == "cuda" else partial(run, nothing)
    again()
    _wait(device)
    start = time.perf_counter()
    for _ in range(TIMES):
        again()
    _wait(device)
    return (time.perf_counter() - start) / TIMES


def _bandwidth(device: torch.device) -> float:
    """Bytes a second, of those read and those written, of a copy within the device."""
    size = COPIED if device.type == "cuda" else COPIED // 2**7
    source, target = torch.zeros(2, size, dtype=torch.uint8, device=device)

    def copy(_: Tensor) -> None:
        target.copy_(source)

    return 2 * size / _timed(copy, device)


def _token_bytes(pair: ModelPair) -> int:
    """Of one token's keys and values in all layers."""
    config = pair.expert.config
    size = config.hidden_size // config.num_attention_heads
    each = config.num_hidden_layers * config.num_key_value_heads * size
    return 2 * each * pair.dtype.itemsize


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
