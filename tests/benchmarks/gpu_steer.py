"""Guided decoding on a GPU, as a share of our own unguided tokens a second, and beside Hugging
Face's unguided generate. Run: `make bench-gpu`, or by a bare python with torch, transformers and
peft: nothing is installed and nothing is fetched.

Random weights of Llama's 1B and 7B shapes are made on the device, with a LoRA expert (r=16, all
linear layers). Every row makes NEW tokens after a prompt of 16; negative contexts of 240 tokens
are shared by groups of 8 rows. All slots start together, so that rates are those of full slots.

    plain    our engine, γ = η = 0
    steer    our engine, γ = η = .2: expert, base and negative streams
    hf       Hugging Face generate of the expert, unguided, the same batch
    at best  the share of plain that no engine on this device's products and memory passes, see
             `gpu_bound`

A cell is one contender at one batch: a run to warm up, then timed runs until it has had its
share of the time. What does not fit into --seconds is left out and said so.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # nothing is installed on a bare machine

import peft
import torch
import transformers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from factory.guidance import Guidance, Sampling
from tests.benchmarks.gpu_bound import Work, at_best
from workers.decoding import ModelPair, Request, SteerDecoder
from workers.models.lora import AdapterRows, split_rows

PROMPT, NEGATIVE, GROUP = 16, 240, 8  # tokens, tokens, rows
SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 500},
    "1B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
           "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000},
    "7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
           "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000},
}  # fmt: skip
GUIDED, UNGUIDED = Guidance(gamma=0.2, eta=0.2), Guidance(gamma=0, eta=0)


@dataclass
class Table:
    """What was measured so far: tokens a second by model, contender and batch."""

    about: dict[str, Any]
    rates: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    bounds: dict[str, dict[int, float]] = field(default_factory=dict)

    def add(self, model: str, contender: str, batch: int, rate: float) -> None:
        self.rates.setdefault(model, {}).setdefault(contender, {})[batch] = rate

    def lines(self) -> list[str]:
        """One line per model and batch: tokens a second, and the two ratios."""
        lines = [f"{'model':6}{'batch':>6}{'plain':>10}{'steer':>10}{'hf':>10}"
                 f"{'steer/plain':>13}{'at best':>9}{'steer/hf':>10}"]  # fmt: skip
        for model, rates in self.rates.items():
            for batch in sorted({b for of in rates.values() for b in of}):
                plain, steer, hf = (
                    rates.get(c, {}).get(batch, float("nan")) for c in ("plain", "steer", "hf")
                )
                bound = self.bounds.get(model, {}).get(batch, float("nan"))
                lines.append(f"{model:6}{batch:6}{plain:10.0f}{steer:10.0f}{hf:10.0f}"
                             f"{steer / plain:13.2f}{bound:9.2f}{steer / hf:10.2f}")  # fmt: skip
        return lines


def make_model(shape: str, device: torch.device, dtype: torch.dtype) -> LlamaForCausalLM:
    """Random weights; predictions about as sure of themselves as a trained model's."""
    config = LlamaConfig(
        max_position_embeddings=2048, eos_token_id=None, pad_token_id=0, bos_token_id=1,
        **SHAPES[shape],
    )  # fmt: skip
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    nn.init.normal_(model.lm_head.weight, std=4 / config.hidden_size**0.5)
    return model.eval()


def make_pair(model: LlamaForCausalLM) -> ModelPair:
    """The model as base, with a random LoRA adapter applied row by row as expert."""
    lora = peft.LoraConfig(
        r=16, lora_alpha=32, target_modules="all-linear", init_lora_weights=False
    )
    adapted = peft.get_peft_model(model, lora)
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            nn.init.normal_(weight.data, std=0.01)
    rows = AdapterRows()
    shared = split_rows(adapted, rows)
    return ModelPair.of(shared, shared, rows)


def make_requests(batch: int, vocab: int) -> list[Request]:
    random = torch.Generator().manual_seed(7)

    def ids(count: int) -> list[int]:
        return torch.randint(2, vocab, (count,), generator=random).tolist()

    prompt = ids(PROMPT)
    negatives = [(*ids(NEGATIVE), *prompt) for _ in range(-(-batch // GROUP))]
    return [Request(prompt, negatives[i // GROUP], seed=i) for i in range(batch)]


def ours(pair: ModelPair, guidance: Guidance, batch: int, new: int) -> Callable[[], int]:
    requests = make_requests(batch, pair.vocab_size)
    decoder = SteerDecoder(pair, guidance, Sampling(max_new_tokens=new), batch)
    return lambda: sum(len(done.token_ids) for done in decoder.run(requests))


def hugging_face(model: LlamaForCausalLM, batch: int, new: int) -> Callable[[], int]:
    prompt = make_requests(batch, model.config.vocab_size)[0].prompt_ids
    ids = torch.tensor([list(prompt)] * batch, device=model.device)

    @torch.inference_mode()
    def generate() -> int:
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            top_k=0,
            min_new_tokens=new,
            max_new_tokens=new,
            pad_token_id=0,
        )
        return int(out.shape[0] * (out.shape[1] - len(prompt)))

    return generate


def rate(call: Callable[[], int], device: torch.device, until: float, warm: int) -> float:
    """Median tokens a second of runs until the clock says `until`, at least one, at most five;
    `warm` runs before them are not counted."""
    rates: list[float] = []
    for turn in range(warm + 5):
        start = time.perf_counter()
        made = call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if turn >= warm:
            rates.append(made / (time.perf_counter() - start))
        if rates and time.perf_counter() > until:
            break
    return statistics.median(rates)


def measure(
    table: Table, shape: str, batches: list[int], new: int, device: torch.device, ends: float
) -> None:
    """All cells of a model, the most telling first; what the time does not allow is left out."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    torch.manual_seed(0)
    model = make_model(shape, device, dtype)
    cells: list[tuple[str, int, Callable[[], Callable[[], int]]]] = []
    # Hugging Face runs the same weights before they are given to our engine, without an adapter:
    # that is the faster thing to compare with.
    for batch in batches:
        cells.append(("hf", batch, lambda b=batch: hugging_face(model, b, new)))
    run_cells(table, shape, cells, device, time.perf_counter() + 0.4 * (ends - time.perf_counter()))
    pair = make_pair(model)
    cells = [
        (name, batch, lambda g=guidance, b=batch: ours(pair, g, b, new))
        for batch in batches
        for name, guidance in (("plain", UNGUIDED), ("steer", GUIDED))
    ]
    run_cells(table, shape, cells, device, ends)
    pair.idle.clear()
    plain = table.rates.get(shape, {}).get("plain", {})
    table.bounds[shape] = {
        batch: at_best(
            pair, Work(batch, new, NEGATIVE + PROMPT, PROMPT, GROUP), batch / plain[batch]
        )
        for batch in batches
        if batch in plain
    }


def run_cells(
    table: Table,
    shape: str,
    cells: list[tuple[str, int, Callable[[], Callable[[], int]]]],
    device: torch.device,
    ends: float,
) -> None:
    for done, (name, batch, make) in enumerate(cells):
        now = time.perf_counter()
        if now >= ends:
            table.left_out.append(f"{shape} {name} {batch}: no time left")
            continue
        try:
            # Ours takes two to warm up: steps are recorded when they come again.
            warm = 1 if name == "hf" else 2
            of = rate(make(), device, now + (ends - now) / (len(cells) - done), warm)
        except torch.OutOfMemoryError:
            table.left_out.append(f"{shape} {name} {batch}: out of memory")
            continue
        table.add(shape, name, batch, of)
        took = time.perf_counter() - now
        say(f"{shape} {name} batch {batch}: {of:.0f} tokens/s ({took:.0f} s)")


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def describe(device: torch.device) -> dict[str, Any]:
    on_card = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_card else "cpu",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def main(arguments: list[str] | None = None) -> Table:
    """Print the table as it grows, and as JSON at the end; returns it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--tiny", action="store_true", help="a tiny model: to try the script")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64, 256])
    parser.add_argument("--new", type=int, default=96, help="tokens of a row")
    parser.add_argument("--seconds", type=float, default=420, help="all in all, about")
    parser.add_argument("--json", type=Path, help="also written after every model")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is visible; --device cpu --tiny tries the script without")
    began = time.perf_counter()
    table = Table(describe(device))
    shapes = ["tiny"] if options.tiny else ["7B", "1B"]
    for left, shape in enumerate(shapes):
        now = time.perf_counter()
        ends = now + (began + options.seconds - now) * (1 if left == len(shapes) - 1 else 0.65)
        measure(table, shape, options.batches, options.new, device, ends)
        say("\n".join(table.lines()))
        report = json.dumps(
            {
                **table.about,
                "rates": table.rates,
                "at_best": table.bounds,
                "left_out": table.left_out,
            }
        )
        if options.json:
            options.json.write_text(report + "\n")
        if device.type == "cuda":
            torch.cuda.empty_cache()
    for line in table.left_out:
        say(f"left out: {line}")
    say(report)
    return table


if __name__ == "__main__":
    main()
