"""Attention of our own for transformers' models: they compute queries, keys and values as ever,
and what these attend to is decided by the forward that runs (`Attender`), not by a mask.

Registered with transformers under ATTENTION; a model set to it asks for no mask, and passes the
attender through as the keyword `attender`.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from factory.errors import ModelError

ATTENTION = "steer"


@dataclass(frozen=True)
class Scoring:
    """How one layer turns products of queries and keys into weights.

    scale    multiplies them
    window   a position sees itself and the window − 1 before it; None: all before it
    softcap  squashes them into (−softcap, softcap); None: does not
    """

    scale: float
    window: int | None
    softcap: float | None

    def weights(self, products: Tensor, mask: Tensor) -> Tensor:
        """(…, keys) products and an additive mask to weights that sum to 1, in their dtype."""
        if self.softcap is None:
            scores = torch.add(mask, products, alpha=self.scale)
        else:
            scores = (
                torch.tanh(products.float() * (self.scale / self.softcap)) * self.softcap + mask
            )
        return scores.softmax(dim=-1).to(products.dtype)


class Attender(Protocol):
    """Where a forward's keys and values go, and what its queries see."""

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> Tensor:
        """query (n, heads, q, size), key and value (n, kv heads, q, size) → like query."""


class Prefill:
    """A forward over whole contexts from position 0, padded on the right; keeps their KV."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scoring: Scoring
    ) -> Tensor:
        """Causal attention within each row; what stands to the right of a token is not seen."""
        self.layers[layer] = key, value
        if scoring.softcap is None and scoring.window is None:
            return nn.functional.scaled_dot_product_attention(
                query, key, value, is_causal=True, scale=scoring.scale, enable_gqa=True
            )
        position = torch.arange(query.shape[2], device=query.device)
        mask = additive(visible(position[:, None], position, scoring.window))
        return attend(query, key, value, scoring, mask)


def attend(query: Tensor, key: Tensor, value: Tensor, scoring: Scoring, mask: Tensor) -> Tensor:
    """query (n, heads, q, size), key and value (n, kv heads, k, size), an additive mask that
    broadcasts to (n, kv heads, heads of each, q, k) → like query."""
    n, _, length, size = query.shape
    grouped = query.reshape(n, key.shape[1], -1, length, size)
    weights = scoring.weights(grouped @ key[:, :, None].mT, mask)
    return (weights @ value[:, :, None]).view(query.shape)


def visible(query: Tensor, key: Tensor, window: int | None) -> Tensor:
    """Whether a query at one position sees a key at another (broadcast), as bool."""
    seen = key <= query
    return seen if window is None else seen & (key > query - window)


def additive(seen: Tensor) -> Tensor:
    """bool to float32: 0 where seen, −inf where not."""
    return torch.where(seen, 0.0, -torch.inf)


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: object,
    *,
    attender: Attender,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: returns (n, q, heads, size) and no weights."""
    for name in ("s_aux", "position_bias"):
        if options.get(name) is not None:
            raise ModelError(f"attention with {name} ({type(module).__name__}) cannot be steered")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scoring = Scoring(scale, sliding_window, softcap)
    layer: int = module.layer_idx  # type: ignore[assignment]
    return attender.attend(layer, query, key, value, scoring).transpose(1, 2), None


AttentionInterface.register(ATTENTION, _attention)
