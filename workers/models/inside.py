"""What a model has inside: where ids go in, and what its logits are made of."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def input_device(model: PreTrainedModel) -> torch.device:
    """Where a model takes its ids."""
    weight: Tensor = model.get_input_embeddings().weight  # type: ignore[assignment]
    return weight.device


def output_embeddings(model: PreTrainedModel) -> Tensor:
    """(V, d) weights that the logits are made with."""
    weight: Tensor = model.get_output_embeddings().weight  # type: ignore[no-untyped-call]
    return weight


@contextmanager
def watching_head(
    model: PreTrainedModel, wanted: bool = True, *, first_only: bool = False
) -> Iterator[list[Tensor]]:
    """A list that will hold what a forward gives to the layer that makes the logits, if wanted.

    first_only: let that layer see one position only, where logits are not needed.
    """
    seen: list[Tensor] = []
    if not wanted:
        yield seen
        return

    def watch(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        seen[:] = [inputs[0]]
        return (inputs[0][:, :1],) if first_only else None

    layer: nn.Module = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    handle = layer.register_forward_pre_hook(watch)
    try:
        yield seen
    finally:
        handle.remove()
