"""How likely given texts are to the expert or the base: teacher forcing, no drawing."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from workers.decoding.guidance import log_probs
from workers.decoding.prompts import check_context
from workers.models.attention import Prefill
from workers.models.inside import input_device
from workers.models.pair import ModelPair
from workers.streams import MASKED

ELEMENTS = 1 << 26  # logits of one forward, at most: rows · positions · vocabulary


@dataclass(frozen=True)
class Scored:
    """A text to score: token ids after a context's. Neither may be empty."""

    context: Sequence[int]
    text: Sequence[int]


@torch.inference_mode()
def text_log_probs(
    pair: ModelPair,
    model: Literal["expert", "base"],
    texts: Sequence[Scored],
    on_batch: Callable[[], None] = lambda: None,
) -> list[Tensor]:
    """Each text's log-probabilities, (tokens,) float32 in nats, in the order given.

    Pad and bos are banned, as in generation. `on_batch` is called before each forward; what it
    raises ends the work. Raises PromptError when a context and its text do not fit.
    """
    for each in texts:
        room = len(each.text)
        check_context("text", each.context, pair.vocab_size, room, pair.max_positions)
    found: dict[int, Tensor] = {}
    for batch in _batches(texts, pair.vocab_size):
        on_batch()
        for place, scores in zip(
            batch, _forward(pair, model, [texts[i] for i in batch]), strict=True
        ):
            found[place] = scores
    return [found[place] for place in range(len(texts))]


def _forward(pair: ModelPair, model: str, texts: Sequence[Scored]) -> Iterator[Tensor]:
    rows = [[*each.context, *each.text] for each in texts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    pair.rows.split(len(rows), len(rows) if model == "expert" else 0)
    weights = pair.expert if model == "expert" else pair.base
    device = input_device(weights)
    logits: Tensor = weights(
        input_ids=ids.to(device),
        position_ids=torch.arange(width, device=device).expand(len(rows), width),
        attender=Prefill(),
        use_cache=False,
    ).logits
    for row, each in enumerate(texts):
        start, stop = len(each.context), len(rows[row])
        mine = logits[row, start - 1 : stop - 1].float()
        mine[:, list(pair.banned_ids)] = MASKED
        chosen = torch.tensor(each.text, device=mine.device)
        yield log_probs(mine).gather(1, chosen[:, None])[:, 0].cpu()


def _batches(texts: Sequence[Scored], vocabulary: int) -> list[list[int]]:
    """Positions of texts of like length, so many that a forward's logits stay in bounds."""
    lengths = [len(each.context) + len(each.text) for each in texts]
    batches: list[list[int]] = []
    for place in sorted(range(len(texts)), key=lambda i: lengths[i]):
        size = len(batches[-1]) + 1 if batches else 1
        if not batches or size * lengths[place] * vocabulary > ELEMENTS:
            batches.append([])
        batches[-1].append(place)
    return batches
