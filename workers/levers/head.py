"""Fitting a verdict head on reviewed texts, from scratch each time.

Every token inherits its text's verdict; the loss is the mean binary cross-entropy over tokens
plus shrinkage. Hidden states and embeddings are scaled to unit variance first (and the scale is
folded into the weights afterwards), so that one shrinkage fits models of any size.

Whether the head knows anything is tested by cross-validation over texts, beside heads fitted on
shuffled verdicts. All of these fits run side by side, as one batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from workers.decoding import ModelPair
from workers.levers.sanity import Sanity, compare, folds, shuffles, too_few
from workers.levers.verdict import VerdictHead, read_hidden
from workers.models.inside import output_embeddings

STEPS = 150
RATE = 0.02
START = 0.02  # standard deviation of U and T at the start
SHRINK = 5e-4  # of a, U and T
ROOM = 2**25  # numbers of hidden states that are held at most
SHRINK_BIAS = 5e-3  # of b: a token's own bias is the last to be believed


@dataclass(frozen=True)
class FittedHead:
    """A head, how well it foretells verdicts, and why it should not be used, if so."""

    head: VerdictHead | None
    sanity: Sanity | None
    tokens: int
    refused: str | None


@dataclass(frozen=True)
class _Data:
    """Tokens of reviewed texts: h (N, d); e (S, d) of the S different ones; each token's place
    among these (N,), its text (N,), and the texts' verdicts (T,), 1: accepted."""

    hidden: Tensor
    embedded: Tensor
    places: Tensor
    texts: Tensor
    accepted: Tensor


def fit_head(
    pair: ModelPair,
    prompt: Sequence[int],
    texts: Sequence[Sequence[int]],
    accepted: Sequence[bool],
    *,
    rank: int = 8,
    seed: int = 0,
) -> FittedHead:
    """Fit a head for this pair's expert.

    prompt: token ids that texts follow; texts: their token ids, eos included, the oldest first
    (where there are too many to hold, these are left out); accepted: their verdicts.
    `head` is None, and `refused` says why, with fewer than MINIMUM texts of either verdict, or
    when cross-validated it does no better than on shuffled verdicts.
    """
    newest = _newest(texts, ROOM // output_embeddings(pair.expert).shape[1])
    texts, accepted = texts[newest:], accepted[newest:]
    if why := too_few(accepted):
        return FittedHead(None, None, 0, why)
    read = read_hidden(pair, prompt, texts)
    seen, places = torch.unique(read.tokens, return_inverse=True)
    device, embeddings = pair.device, output_embeddings(pair.expert).detach()
    embedded = embeddings[seen.to(embeddings.device)].float().cpu()
    scale_h, scale_e = (
        x.std().clamp(min=1e-6) * x.shape[1] ** 0.5 for x in (read.hidden, embedded)
    )
    data = _Data(
        (read.hidden / scale_h).to(device),
        (embedded / scale_e).to(device),
        places.to(device),
        read.texts.to(device),
        torch.tensor(accepted, dtype=torch.float32, device=device),
    )
    sanity = _cross_validated(data, rank, seed)
    found = _fit(data, torch.ones(1, len(accepted), device=device), data.accepted[None], rank, seed)
    bias = torch.full((len(embeddings),), float(found.level))
    bias[seen] += found.bias[0].cpu()
    head = VerdictHead(
        direction=found.direction[0].cpu() / scale_h,
        bias=bias,
        hidden=found.hidden[0].cpu() / scale_h,
        token=found.token[0].cpu() / scale_e,
    )
    why = sanity.refusal
    return FittedHead(None if why else head, sanity, len(read.tokens), why)


def _newest(texts: Sequence[Sequence[int]], tokens: int) -> int:
    """The first of the last texts that have no more than so many tokens together."""
    for first in range(len(texts), 0, -1):
        tokens -= len(texts[first - 1])
        if tokens < 0:
            return first
    return 0


@dataclass(frozen=True)
class _Fits:
    """K heads: a level that every token shares (K, 1), a (K, d), b (K, seen), U and T (K, r, d)."""

    level: Tensor
    direction: Tensor
    bias: Tensor
    hidden: Tensor
    token: Tensor

    def log_odds(self, data: _Data) -> Tensor:
        """(K, N)."""
        count, rank, width = self.hidden.shape
        low = data.hidden @ self.hidden.view(-1, width).T
        side = data.embedded @ self.token.view(-1, width).T
        both = (low * side.index_select(0, data.places)).view(-1, count, rank).sum(-1)
        bias = self.bias.T.index_select(0, data.places)
        return (both + data.hidden @ self.direction.T + bias + self.level.T).T


def _fit(data: _Data, weights: Tensor, verdicts: Tensor, rank: int, seed: int) -> _Fits:
    """K heads side by side: weights (K, T) of the texts (0: held out), verdicts (K, T)."""
    count, (_, width) = len(weights), data.hidden.shape
    start = torch.Generator().manual_seed(seed)
    sides = [torch.randn(rank, width, generator=start) * START for _ in range(2)]
    device = data.hidden.device
    fits = _Fits(
        torch.zeros(count, 1, device=device),
        torch.zeros(count, width, device=device),
        torch.zeros(count, int(data.places.max()) + 1, device=device),
        *(side.to(device).expand(count, -1, -1).clone() for side in sides),
    )
    parts = [x.requires_grad_() for x in vars(fits).values()]
    each = weights[:, data.texts]
    each = each / each.sum(dim=1, keepdim=True)
    target = verdicts[:, data.texts]
    optimizer = torch.optim.Adam(parts, lr=RATE)
    with torch.enable_grad():
        for _ in range(STEPS):
            optimizer.zero_grad()
            _loss(fits, data, each, target).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return _Fits(*(x.detach() for x in parts))


def _loss(fits: _Fits, data: _Data, each: Tensor, target: Tensor) -> Tensor:
    """The sum over heads of cross-entropy and shrinkage; heads do not touch each other."""
    entropy = nn.functional.binary_cross_entropy_with_logits(
        fits.log_odds(data), target, weight=each, reduction="sum"
    )
    shared = sum(x.square().sum() for x in (fits.direction, fits.hidden, fits.token))
    return entropy + SHRINK * shared + SHRINK_BIAS * fits.bias.square().sum()


def _cross_validated(data: _Data, rank: int, seed: int) -> Sanity:
    """How well heads foretell the verdicts of texts that they were not fitted on, beside heads
    on shuffled verdicts."""
    accepted = data.accepted.cpu().numpy() > 0
    verdicts = [accepted, *shuffles(accepted, seed)]
    outside = [folds(said, seed) for said in verdicts]
    device = data.hidden.device
    weights = torch.tensor(
        [[part != k for part in of] for of in outside for k in range(max(of) + 1)]
    )
    targets = torch.tensor(
        [list(said) for said, of in zip(verdicts, outside, strict=True) for _ in range(max(of) + 1)]
    )
    fits = _fit(data, weights.float().to(device), targets.float().to(device), rank, seed)
    scores = _of_texts(fits.log_odds(data), data.texts, len(accepted)).cpu().numpy()
    found, row = [], 0
    for of in outside:
        count = max(of) + 1
        found.append([float(scores[row + part, text]) for text, part in enumerate(of)])
        row += count
    return compare(verdicts, found)


def _of_texts(log_odds: Tensor, texts: Tensor, count: int) -> Tensor:
    """(K, N) log-odds of tokens to (K, T): the mean of log σ over each text's tokens, which is
    what steering adds."""
    total = torch.zeros(len(log_odds), count, device=log_odds.device)
    total.index_add_(1, texts, nn.functional.logsigmoid(log_odds))
    return total / torch.bincount(texts, minlength=count).clamp(min=1)
