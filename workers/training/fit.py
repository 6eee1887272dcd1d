"""The training loop that bases and experts share."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from factory.errors import NumericalError
from workers.training.recipe import Progress

IGNORED = -100  # a label that no loss is taken on


@dataclass(frozen=True)
class Batch:
    """Token ids (B, T), attention mask (B, T) and labels (B, T), all int64, on one device."""

    ids: Tensor
    mask: Tensor
    labels: Tensor

    def to(self, device: str) -> "Batch":
        """The same batch on another device."""
        return Batch(self.ids.to(device), self.mask.to(device), self.labels.to(device))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch's global noise starts at `seed` inside, and goes on as before outside."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def pad_batch(rows: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], pad: int) -> Batch:
    """Rows of unequal length, padded on the right to (B, longest)."""
    longest = max(map(len, rows))
    return Batch(
        torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows]),
        torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
        torch.tensor([[*row, *[IGNORED] * (longest - len(row))] for row in labels]),
    )


def fit(
    model: torch.nn.Module,
    batches: Iterable[Batch],
    *,
    steps: int,
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[int], float],
    on_progress: Progress | None,
) -> float:
    """Take one step a batch; return the mean loss of the last tenth (at least one step).

    `schedule(step)` is the share of the full learning rate. Gradients are clipped to norm 1.
    Raises NumericalError when the loss is not finite.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    losses: list[float] = []
    model.train()
    for batch in batches:
        loss = batch_loss(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        scheduler.step()
        losses.append(_finite(loss, len(losses) + 1))
        if on_progress is not None:
            on_progress(len(losses), steps, losses[-1])
    model.eval()
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def batch_loss(model: torch.nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy over the labels that are not ignored, nats a token, scalar float32."""
    return _cross_entropy(model, batch, "mean")


@torch.inference_mode()
def row_log_probs(model: torch.nn.Module, batch: Batch) -> list[float]:
    """Of each row: the mean log-probability of its labels that are not ignored, nats a token."""
    total = -_cross_entropy(model, batch, "none").view(len(batch.ids), -1).sum(dim=1)
    found: list[float] = (total / (batch.labels[:, 1:] != IGNORED).sum(dim=1)).tolist()
    return found


def _cross_entropy(
    model: torch.nn.Module, batch: Batch, reduction: Literal["mean", "none"]
) -> Tensor:
    """Of every label in turn (0 where it is ignored), or their mean."""
    logits = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1),
        batch.labels[:, 1:].flatten(),
        ignore_index=IGNORED,
        reduction=reduction,
    )


def flat_then_linear(steps: int, flat: float = 0.3, floor: float = 0.03) -> Callable[[int], float]:
    """Full rate for the first `flat` of the steps, then linear down to `floor`."""

    def share(step: int) -> float:
        through = max(0.0, step / steps - flat) / (1 - flat)
        return max(floor, 1 - (1 - floor) * through)

    return share


def _finite(loss: Tensor, step: int) -> float:
    value = float(loss.detach())
    if value != value or value in (float("inf"), float("-inf")):
        raise NumericalError(
            f"the training loss is {value} at step {step}: lower the learning rate"
        )
    return value
