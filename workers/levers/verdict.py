"""The verdict head: what people accepted, read off the expert's own hidden states.

With h (d,) the hidden state that the expert's next-token logits are made of, and e_v (d,) the
expert's output embedding of token v, the head gives the log-odds that a text going on with v is
accepted, and steers by its log-probability f_v, in nats:

    z_v = a·h + b_v + (Uh)·(Te_v)          f_v = log σ(z_v)          s = E + ρ f

a (d,), b (V,), U and T (r, d). The low rank shares what is learned between tokens, so that one
that was never reviewed is judged by its neighbours. ρ is lowered, for each row at each step, until
KL(softmax(s) ‖ softmax(E)) among the plausible tokens is within a cap: the tilted distribution's
KL grows with ρ (its derivative is ρ Var f), so that bisection finds it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from workers.decoding import MASKED, Logits, RoleName, Steered
from workers.models.attention import Prefill
from workers.models.inside import input_device, output_embeddings, watching_head
from workers.models.pair import ModelPair

BISECTIONS = 16
READ_TOKENS = 2048  # positions of one forward that reads hidden states


@dataclass(frozen=True, eq=False)
class VerdictHead:
    """The head's weights, float32: a (d,), b (V,), U (r, d), T (r, d)."""

    direction: Tensor
    bias: Tensor
    hidden: Tensor
    token: Tensor

    def log_odds(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """z of every token: hidden (B, d), tokens (V, r) = Te of all tokens → (B, V)."""
        return (hidden @ self.direction)[:, None] + self.bias + hidden @ self.hidden.T @ tokens.T


class HeadTerm:
    """A head that steers with weight ρ within `cap` nats a token, on the expert of a pair."""

    def __init__(self, head: VerdictHead, weight: float, cap: float) -> None:
        """Raises ValueError for a weight below 0 or a cap of 0 or less."""
        if weight < 0 or not cap > 0:
            raise ValueError(f"weight must be 0 or more and cap above 0, not {weight} and {cap}")
        self.head = head
        self.weight = weight
        self.cap = cap

    def on(self, pair: ModelPair) -> "_Bound":
        """The head on this pair's device. Raises ValueError when it was fitted on another."""
        embeddings = output_embeddings(pair.expert)
        fits = (*embeddings.shape,) == (len(self.head.bias), len(self.head.direction))
        if not fits:
            raise ValueError("the verdict head was fitted on an expert of another size")
        head = VerdictHead(*(x.to(pair.device) for x in vars(self.head).values()))
        tokens = (embeddings @ head.token.T.to(embeddings)).float()
        return _Bound(head, tokens, self.weight, self.cap)


@dataclass(frozen=True, eq=False)
class _Bound:
    head: VerdictHead
    tokens: Tensor  # (V, r)
    weight: float
    cap: float
    name: Literal["head"] = "head"
    roles: tuple[RoleName, ...] = ()
    hidden: bool = True

    def add(self, steered: Steered, streams: Logits, hidden: Tensor) -> Steered:
        """The scores with ρf added; the mask is what it was."""
        f = nn.functional.logsigmoid(self.head.log_odds(hidden, self.tokens))
        term = capped(steered, f, self.weight, self.cap)
        return replace(steered, scores=steered.scores + term, head=term)


def capped(steered: Steered, f: Tensor, weight: float, cap: float) -> Tensor:
    """ρf (B, V) of plausible tokens, 0 of the others, with ρ ≤ weight as the cap has it."""
    scale = capped_weight(steered.expert, f, steered.keep, weight, cap)
    return (scale[:, None] * f).masked_fill(~steered.keep, 0.0)


def capped_weight(expert: Tensor, f: Tensor, keep: Tensor, weight: float, cap: float) -> Tensor:
    """The largest ρ ≤ weight with KL(softmax(E + ρf) ‖ softmax(E)) ≤ cap over kept tokens.

    expert, f (B, V) in nats, keep (B, V) bool → (B,).
    """
    count = int(keep.sum(dim=-1).max()) if len(keep) else 0
    if 0 < count < keep.shape[-1] // 4:  # few are plausible: leave the others out
        at = expert.masked_fill(~keep, MASKED).topk(count, dim=-1).indices
        expert, f, keep = (x.gather(-1, at) for x in (expert, f, keep))
    log_p = expert.masked_fill(~keep, MASKED).log_softmax(dim=-1)
    low = torch.zeros(len(f), device=f.device)
    high = torch.full_like(low, weight)
    allowed = divergence(log_p, f, keep, high) <= cap
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        within = divergence(log_p, f, keep, middle) <= cap
        low, high = torch.where(within, middle, low), torch.where(within, high, middle)
    return torch.where(allowed, torch.full_like(low, weight), low)


def divergence(log_p: Tensor, f: Tensor, keep: Tensor, scale: Tensor) -> Tensor:
    """KL(q ‖ p) in nats of q ∝ p exp(scale · f) over kept tokens: (B, V) ×3, (B,) → (B,)."""
    log_q = (log_p + scale[:, None] * f).masked_fill(~keep, MASKED).log_softmax(dim=-1)
    return ((log_q - log_p) * log_q.exp()).masked_fill(~keep, 0.0).sum(dim=-1)


@dataclass(frozen=True, eq=False)
class Read:
    """The hidden states that texts were made from, a row per token of all texts, in order.

    hidden  (N, d) float32: what the expert's logits for the token are made of
    tokens  (N,) int64
    texts   (N,) int64: which text the token is of
    """

    hidden: Tensor
    tokens: Tensor
    texts: Tensor


@torch.inference_mode()
def read_hidden(pair: ModelPair, prompt: Sequence[int], texts: Sequence[Sequence[int]]) -> Read:
    """Run the expert over texts (token ids, each after the prompt) and keep its hidden states.

    A text beyond the model's length is cut.
    """
    room = pair.max_positions - len(prompt) + 1
    cut = [tuple(text)[:room] for text in texts]
    order = sorted((i for i in range(len(cut)) if cut[i]), key=lambda i: len(cut[i]))
    rows: dict[int, Tensor] = {}
    for some in _portions(order, [len(prompt) + len(text) for text in cut]):
        contexts = [(*prompt, *cut[i][:-1]) for i in some]
        states = _hidden_states(pair, contexts)
        for state, i in zip(states, some, strict=True):
            rows[i] = state[len(prompt) - 1 :][: len(cut[i])]
    there = sorted(rows)
    width = output_embeddings(pair.expert).shape[1]
    return Read(
        torch.cat([rows[i] for i in there]) if there else torch.zeros(0, width),
        torch.tensor([token for i in there for token in cut[i]], dtype=torch.long),
        torch.tensor([i for i in there for _ in cut[i]], dtype=torch.long),
    )


def _hidden_states(pair: ModelPair, contexts: Sequence[tuple[int, ...]]) -> Tensor:
    """(rows, positions, d) float32 on the CPU, padded on the right."""
    width = max(map(len, contexts))
    padded = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in contexts])
    positions = torch.arange(width).expand(len(contexts), width)
    pair.rows.split(len(contexts), len(contexts))
    device = input_device(pair.expert)
    with watching_head(pair.expert, first_only=True) as seen:
        pair.expert(
            input_ids=padded.to(device),
            position_ids=positions.to(device),
            attender=Prefill(),
            use_cache=False,
        )
    return seen[0].float().cpu()


def _portions(order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices in turn, as many at a time as READ_TOKENS allows, padding included."""
    some: list[int] = []
    for i in order:  # the longest comes last
        if some and lengths[i] * (len(some) + 1) > READ_TOKENS:
            yield some
            some = []
        some.append(i)
    if some:
        yield some
