"""KV of rows of different length side by side: column i of a row is its position i.

A query at position p attends to columns 0 … p of its own row, so whatever lies to the right
(older rows, padding of a prefill) is never seen, and a finished row's place can be reused.
"""

import torch
from torch import Tensor
from transformers import Cache

KV_LAYERS = ("full_attention", "sliding_attention")


class RowCache(Cache):
    """A transformers Cache with a write position per row. Buffers grow by doubling.

    Per layer, keys and values are (rows, kv heads, columns, head size) in the weights' dtype.
    Before each forward, `prefill` or `decode` says which rows it is for.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self._buffers: dict[int, tuple[Tensor, Tensor]] = {}
        self._rows = torch.empty(0, dtype=torch.long)
        self._positions: Tensor | None = None
        self._size = (0, 0)

    def prefill(self, rows: Tensor, columns: int, capacity: int) -> None:
        """The next forward fills `rows` from column 0 with `columns` tokens; `capacity` rows."""
        self._rows, self._positions = rows, None
        self._reserve(capacity, columns)

    def decode(self, positions: Tensor, length: int) -> None:
        """The next forward adds one token to rows 0 … n−1, at `positions` (n,) < `length`."""
        self._rows = torch.arange(len(positions), device=positions.device)
        self._positions, self._length = positions, length
        self._reserve(0, length)

    def update(
        self,
        key_states: Tensor,
        value_states: Tensor,
        layer_idx: int,
        *args: object,
        **kwargs: object,
    ) -> tuple[Tensor, Tensor]:
        """Store (n, heads, q, size) and return what the queries attend to."""
        keys, values = self._layer(layer_idx, key_states, value_states)
        rows = self._rows.to(key_states.device)
        if self._positions is None:
            columns = key_states.shape[2]
            keys[rows, :, :columns] = key_states
            values[rows, :, :columns] = value_states
            return key_states, value_states
        at = self._positions.to(key_states.device)
        keys[rows, :, at] = key_states[:, :, 0]
        values[rows, :, at] = value_states[:, :, 0]
        n = len(rows)
        return keys[:n, :, : self._length], values[:n, :, : self._length]

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` columns of a row over another row."""
        for buffers in self._buffers.values():
            for buffer in buffers:
                buffer[target, :, :length] = buffer[source, :, :length]

    def wipe(self, row: int) -> None:
        """Zero a row: a NaN left in it would shine through the mask to its next owner."""
        for buffers in self._buffers.values():
            for buffer in buffers:
                buffer[row] = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions are always given explicitly; models ask all the same."""
        return 0

    def _reserve(self, rows: int, columns: int) -> None:
        have_rows, have_columns = self._size
        if rows > have_rows:
            have_rows = max(rows, 2 * have_rows)
        if columns > have_columns:
            have_columns = max(columns, 2 * have_columns)
        self._size = (have_rows, have_columns)

    def _layer(self, index: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's buffers, made or grown to the reserved size."""
        old = self._buffers.get(index)
        if old is not None and (old[0].shape[0], old[0].shape[2]) == self._size:
            return old
        grown = tuple(self._grow(new, old and old[i]) for i, new in enumerate((keys, values)))
        self._buffers[index] = (grown[0], grown[1])
        return self._buffers[index]

    def _grow(self, like: Tensor, old: Tensor | None) -> Tensor:
        rows, columns = self._size
        new = like.new_zeros(rows, like.shape[1], columns, like.shape[3])
        if old is not None:
            new[: old.shape[0], :, : old.shape[2]] = old
        return new


def causal_mask(positions: Tensor, columns: int, dtype: torch.dtype, window: int | None) -> Tensor:
    """(n, q) positions to an additive (n, 1, q, columns) mask: 0 where column ≤ position.

    window: attend to the last `window` positions only (sliding-window layers).
    """
    column = torch.arange(columns, device=positions.device)
    seen = column <= positions[:, :, None]
    if window is not None:
        seen &= column > positions[:, :, None] - window
    mask = torch.zeros(seen.shape, dtype=dtype, device=positions.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


def layer_masks(config: object, positions: Tensor, columns: int, dtype: torch.dtype) -> object:
    """What to pass as attention_mask: one mask, or one per kind of layer where they differ."""
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds:
        return causal_mask(positions, columns, dtype, window)
    windows = dict.fromkeys(KV_LAYERS, None) | {"sliding_attention": window}
    masks = {kind: causal_mask(positions, columns, dtype, windows[kind]) for kind in kinds}
    return masks if len(masks) > 1 else next(iter(masks.values()))
