"""Tokens per second of guided decoding beside Hugging Face's own means. Run: `make bench`.

Minutes of one core: LoRA pairs of 1 M and 30 M parameters, 32 slots. `--full` (hours) adds full
experts, 65 M, 16 and 64 slots, and more rounds; `--sizes`, `--kinds`, `--slots` and `--rounds`
choose. `--profile` shows where the time goes and what three streams must cost at least
(`steer_profile.py`).

One thread, random weights of Llama shape, three streams (γ = η = .2), and a second table with
γ = 0, η = .5 and a centre. Every contender decodes the same requests under the same rule for
the length of a row, interleaved round by round; medians are printed, and JSON with --json.

    authors   no cache, one row at a time, every stream a full forward per token
    hf-guided Hugging Face generate, batched, a logits processor that caches every stream
    hf-plain  Hugging Face generate of the expert alone
    plain     our engine, γ = η = 0
    steer     our engine, each sample with negatives of its own
    cached    the same with the documents of contexts run apart and kept; empty at the start
    shared    our engine, negatives shared by a group of 8 samples
    both      the same with documents kept
    traced    shared, with a trace of every token
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peft
import torch
from steer_profile import Load, bounds, shares, show
from torch import nn
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from factory.guidance import Guidance, Sampling
from workers.decoding import DocumentCache, ModelPair, Request, SteerDecoder, steer_scores

MAX_NEW = 32  # tokens of a row at most
PROMPT = 12  # tokens
GROUP = 8  # samples that share their negatives
BOS = 1
SIZES = {
    "1M": {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3, "vocab": 400},
    "30M": {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "vocab": 4000},
    "65M": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8, "vocab": 8000},
}

KINDS = ["lora", "full"]
SETTINGS = {
    "γ=η=.2": (Guidance(gamma=0.2, eta=0.2), False),
    "η=.5 centre": (Guidance(gamma=0, eta=0.5), True),
}


@dataclass(frozen=True)
class Bed:
    """The models, as each contender wants them."""

    pair: ModelPair
    expert: PreTrainedModel
    base: PreTrainedModel
    vocab: int


def make_bed(size: str, kind: str, folder: Path) -> Bed:
    """Random base; expert: a random LoRA adapter (r=8, all linear layers), or it merged."""
    shape = dict(SIZES[size])
    vocab = shape.pop("vocab")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=512,
        eos_token_id=None,
        pad_token_id=0,
        bos_token_id=1,
        **shape,
    )
    model = LlamaForCausalLM(config)
    # Predictions about as sure of themselves as a trained model's: logits of deviation 4.
    nn.init.normal_(model.lm_head.weight, std=4 / config.hidden_size**0.5)
    model.save_pretrained(folder / "base")
    lora = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", init_lora_weights=False)
    adapted = peft.get_peft_model(model, lora)
    adapted.save_pretrained(folder / "lora")
    merged = adapted.merge_and_unload()
    merged.save_pretrained(folder / "full")
    base = LlamaForCausalLM.from_pretrained(folder / "base").eval()
    expert: PreTrainedModel = merged.eval()
    if kind == "lora":
        fresh = LlamaForCausalLM.from_pretrained(folder / "base")
        expert = peft.PeftModel.from_pretrained(fresh, str(folder / "lora")).eval()
    return Bed(ModelPair.load(folder / "base", folder / kind), expert, base, vocab)


def row_length(first_token: int) -> int:
    """Rows end after 20 to 32 tokens, as their first token decides."""
    return 20 + first_token * 7919 % 13


def make_requests(count: int, vocab: int, group: int, center: bool) -> list[Request]:
    """One prompt; contexts of three documents, 80 to 113 tokens, drawn anew for each `group`
    requests from a pool of 40 (a product's rejected samples, which come again and again)."""
    random = torch.Generator().manual_seed(7)

    def tokens(length: int) -> list[int]:
        return torch.randint(2, vocab, (length,), generator=random).tolist()

    def context() -> tuple[list[int], list[int]]:
        places = torch.randperm(len(pool), generator=random)[:3].tolist()
        chosen = [pool[place] for place in places]
        chosen[0] = [BOS, *chosen[0]]
        return [*(i for document in chosen for i in document), *prompt], list(map(len, chosen))

    prompt = tokens(PROMPT)
    pool = [tokens(int(torch.randint(27, 38, (1,), generator=random))) for _ in range(40)]
    requests = []
    for seed in range(count):
        if seed % group == 0:
            negative, spans = context()
            centre, middle = context() if center else ([], [])
        requests.append(Request(prompt, negative, seed, centre, spans, middle))
    return requests


class EndRows(StoppingCriteria):
    """The same rule of length for Hugging Face's generate."""

    def __init__(self, width: int) -> None:
        self._width = width

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
        new = input_ids.shape[1] - self._width
        wanted = 20 + input_ids[:, self._width] * 7919 % 13
        return new >= wanted


class CachedStreams(LogitsProcessor):
    """Guidance in a logits processor: every other stream keeps its own DynamicCache."""

    def __init__(self, bed: Bed, requests: Sequence[Request], guidance: Guidance) -> None:
        self._guidance = guidance
        self._streams: dict[str, _Side] = {}
        if guidance.uses_base:
            self._streams["base"] = _Side(bed.base, [r.prompt_ids for r in requests])
        if guidance.uses_negative:
            self._streams["negative"] = _Side(bed.expert, [r.negative_ids for r in requests])
        if guidance.uses_negative and requests[0].center_ids:
            self._streams["center"] = _Side(bed.expert, [r.center_ids for r in requests])

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        logits = {name: side.next(input_ids) for name, side in self._streams.items()}
        return steer_scores(
            scores,
            logits.get("base"),
            logits.get("negative"),
            self._guidance,
            logits.get("center"),
        )


class _Side:
    """One stream beside the expert's: left-padded contexts, then a token at a time."""

    def __init__(self, model: PreTrainedModel, contexts: Sequence[Sequence[int]]) -> None:
        self._model, self._cache = model, DynamicCache()
        width = max(map(len, contexts))
        self._ids = torch.tensor([[0] * (width - len(c)) + list(c) for c in contexts])
        self._mask = torch.tensor([[0] * (width - len(c)) + [1] * len(c) for c in contexts])

    def next(self, input_ids: torch.Tensor) -> torch.Tensor:
        if self._cache.get_seq_length():
            self._ids = input_ids[:, -1:]
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], dim=1)
        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, -self._ids.shape[1] :]
        out = self._model(
            input_ids=self._ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return out.logits[:, -1]


@torch.no_grad()
def authors(bed: Bed, requests: Sequence[Request], guidance: Guidance, slots: int) -> int:
    total = 0
    for request in requests:
        torch.manual_seed(request.seed)
        tokens: list[int] = []
        while not tokens or len(tokens) < row_length(tokens[0]):
            expert = bed.expert(torch.tensor([[*request.prompt_ids, *tokens]])).logits[:, -1]
            base = negative = center = None
            if guidance.uses_base:
                base = bed.base(torch.tensor([[*request.prompt_ids, *tokens]])).logits[:, -1]
            if guidance.uses_negative:
                ids = torch.tensor([[*request.negative_ids, *tokens]])
                negative = bed.expert(ids).logits[:, -1]
            if request.center_ids:
                center = bed.expert(torch.tensor([[*request.center_ids, *tokens]])).logits[:, -1]
            scores = steer_scores(expert, base, negative, guidance, center)
            tokens.append(int(scores.softmax(-1).multinomial(1)))
        total += len(tokens)
    return total


@torch.no_grad()
def hf_generate(
    bed: Bed, requests: Sequence[Request], guidance: Guidance | None, slots: int
) -> int:
    total = 0
    for start in range(0, len(requests), slots):
        rows = requests[start : start + slots]
        processors = [CachedStreams(bed, rows, guidance)] if guidance else []
        ids = torch.tensor([list(r.prompt_ids) for r in rows])
        out = bed.expert.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            logits_processor=LogitsProcessorList(processors),
            stopping_criteria=StoppingCriteriaList([EndRows(PROMPT)]),
            do_sample=True,
            top_k=0,
            max_new_tokens=MAX_NEW,
            pad_token_id=0,
        )
        total += sum(row_length(int(first)) for first in out[:, PROMPT])
    return total


def ours(
    bed: Bed,
    requests: Sequence[Request],
    guidance: Guidance,
    slots: int,
    documents: DocumentCache | None = None,
    *,
    trace: bool = False,
) -> int:
    decoder = SteerDecoder(
        bed.pair,
        guidance,
        Sampling(max_new_tokens=MAX_NEW),
        slots,
        should_stop=lambda tokens: len(tokens) >= row_length(tokens[0]),
        documents=documents,
        trace=trace,
    )
    return sum(len(c.token_ids) for c in decoder.run(requests))


def contenders(
    bed: Bed, guidance: Guidance, slots: int, center: bool
) -> dict[str, Callable[[], int]]:
    """What to time; each call decodes and returns how many tokens it made."""
    own = make_requests(3 * slots, bed.vocab, 1, center)
    shared = make_requests(3 * slots, bed.vocab, GROUP, center)
    off = Guidance(eta=0, nucleus=guidance.nucleus)
    return {
        "authors": lambda: authors(bed, own[:1], guidance, 1),
        "hf-guided": lambda: hf_generate(bed, own, guidance, slots),
        "hf-plain": lambda: hf_generate(bed, own, None, slots),
        "plain": lambda: ours(bed, own, off, slots),
        "steer": lambda: ours(bed, own, guidance, slots),
        "cached": lambda: ours(bed, own, guidance, slots, DocumentCache()),
        "shared": lambda: ours(bed, shared, guidance, slots),
        "both": lambda: ours(bed, shared, guidance, slots, DocumentCache()),
        "traced": lambda: ours(bed, shared, guidance, slots, trace=True),
    }


def measure(calls: dict[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Median tokens per processor second of each, over interleaved rounds."""
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.process_time()
            made = call()
            rates[name].append(made / (time.process_time() - start))
    return {name: statistics.median(values) for name, values in rates.items()}


def report(title: str, rates: dict[str, float]) -> dict[str, Any]:
    ratios = {
        f"{ours}/{theirs}": rates[ours] / rates[theirs]
        for ours in ("steer", "cached", "shared", "both")
        for theirs in ("hf-guided", "authors", "hf-plain", "plain")
    }
    ratios["traced/shared"] = rates["traced"] / rates["shared"]
    cells = "  ".join(f"{name} {rate:7.0f}" for name, rate in rates.items())
    print(f"{title:34} tok/s: {cells}")  # noqa: T201
    print(" " * 34, "  ".join(f"{k} {v:.2f}" for k, v in ratios.items()), flush=True)  # noqa: T201
    return {"case": title, "tokens_per_second": rates, "ratios": ratios}


def load(slots: int, center: bool) -> Load:
    """What a step of guided decoding has to do, on average."""
    requests = make_requests(3 * slots, 400, GROUP, center)
    context = statistics.mean(len(r.negative_ids) for r in requests)
    tokens = statistics.mean(map(row_length, range(13)))
    roles = ("negative", "center") if center else ("base", "negative")
    return Load(roles, slots, GROUP, context, PROMPT, tokens)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="every size, kind and slot count")
    parser.add_argument("--sizes", nargs="+", choices=SIZES)
    parser.add_argument("--kinds", nargs="+", choices=KINDS)
    parser.add_argument("--slots", nargs="+", type=int)
    parser.add_argument("--rounds", type=int, help="left out: 5 for 1M, 1 (--full: 3) for others")
    parser.add_argument("--profile", action="store_true", help="where the time goes, and bounds")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    chosen.sizes = chosen.sizes or (list(SIZES) if chosen.full else ["1M", "30M"])
    chosen.kinds = chosen.kinds or (KINDS if chosen.full else ["lora"])
    chosen.slots = chosen.slots or ([16, 32, 64] if chosen.full else [32])
    return chosen


def main() -> None:
    chosen = options()
    torch.set_num_threads(1)
    rows = []
    for size in chosen.sizes:
        rounds = chosen.rounds or (5 if size == "1M" else 3 if chosen.full else 1)
        for kind in chosen.kinds:
            with tempfile.TemporaryDirectory() as folder:
                bed = make_bed(size, kind, Path(folder))
            for slots in chosen.slots:
                for name, (guidance, center) in SETTINGS.items():
                    calls = contenders(bed, guidance, slots, center)
                    title = f"{size} {kind} {slots} slots {name}"
                    rows.append(report(title, measure(calls, rounds)))
                    if chosen.profile:
                        parts = {n: shares(calls[n]) for n in ("plain", "shared")}
                        rates = rows[-1]["tokens_per_second"]
                        limits = bounds(bed.pair, load(slots, center), guidance, rates)
                        rows[-1]["profile"] = {"parts": parts, "bounds": limits}
                        show(parts, limits)
    if chosen.json:
        chosen.json.write_text(json.dumps(rows, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
