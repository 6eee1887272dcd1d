"""What goes into the decoder and what comes out: requests, completions, traces."""

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import numpy.typing as npt

from factory.errors import DecodingError

FinishReason = Literal["eos", "length", "stop", "error"]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

MAX_SEED = 2**53
ZLIB = 0x78  # the first byte of anything deflated here


@dataclass(frozen=True)
class Request:
    """One sample to make. All ids are token ids.

    prompt_ids    what the expert and the base go on from
    negative_ids  a whole context with the prompt at its end; empty: η has nothing to push from
    seed          0 ≤ seed < 2**53; with the position it decides the noise of every draw
    center_ids    a whole context with the prompt at its end; empty: the centre is the expert
    negative_spans, center_spans
                  lengths of the documents those contexts begin with (what is left is the
                  prompt); empty when unknown
    learned       whether the decoder's terms, learned from verdicts, act on this sample
    Raises ValueError for a seed out of range.
    """

    prompt_ids: Sequence[int]
    negative_ids: Sequence[int] = ()
    seed: int = 0
    center_ids: Sequence[int] = ()
    negative_spans: Sequence[int] = ()
    center_spans: Sequence[int] = ()
    learned: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.seed < MAX_SEED:
            raise ValueError(f"seed must be between 0 and 2**53 - 1, not {self.seed}")


@dataclass(frozen=True, eq=False)
class Trace:
    """Why each token was chosen: arrays of one entry per token of the completion.

    tokens      int32, the chosen token
    expert      float32, its log-probability under the expert (E)
    base, negative, center
                float32, its log-probability in that stream (B, N, C); None: stream not run;
                with the rule "avoidance" negative is its likeness, from 0 to 1
    scores      float32, its score before temperature
    unguided    int32, what the same noise picks from the masked expert
    survivors   int32, how many tokens passed the plausibility mask
    head, adapters
                float32, what the verdict head and adapters added to its score, in nats; None:
                none acted
    """

    tokens: Ints
    expert: Floats
    base: Floats | None
    negative: Floats | None
    center: Floats | None
    scores: Floats
    unguided: Ints
    survivors: Ints
    head: Floats | None = None
    adapters: Floats | None = None

    def to_bytes(self) -> bytes:
        """Pack: flags (which arrays are there; two bytes if one beyond the eighth is), then the
        arrays, deflated."""
        arrays = [getattr(self, field.name) for field in fields(self)]
        flags = sum(1 << i for i, array in enumerate(arrays) if array is not None)
        body = b"".join(_little_endian(array).tobytes() for array in arrays if array is not None)
        return struct.pack("<B" if flags < 256 else "<H", flags) + zlib.compress(body, level=1)

    @classmethod
    def from_bytes(cls, packed: bytes) -> "Trace":
        """Undo `to_bytes`. Raises ValueError when the bytes are not a packed trace."""
        try:
            width = 1 if packed[1] == ZLIB else 2
            flags = int.from_bytes(packed[:width], "little")
            body = zlib.decompress(packed[width:])
            present = [bool(flags >> i & 1) for i in range(len(fields(cls)))]
            rows = np.frombuffer(body, dtype="<i4").reshape(sum(present), -1)
        except (IndexError, ValueError, ZeroDivisionError, zlib.error) as error:
            raise ValueError("these bytes are not a packed trace") from error
        arrays = iter(rows)
        return cls(
            *(
                _typed(next(arrays), field.name) if there else None  # type: ignore[arg-type]
                for field, there in zip(fields(cls), present, strict=True)
            )
        )


@dataclass(frozen=True, eq=False)
class Completion:
    """One finished row.

    index          place of its request in the iterable given to `run`
    token_ids      what was generated; a closing eos is not part of it
    finish_reason  "eos", "length" (max_new_tokens), "stop" (the caller's predicate), "error"
    trace          None unless the decoder was made with trace=True
    error          why the row ended, when finish_reason is "error"
    """

    index: int
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    trace: Trace | None = None
    error: DecodingError | None = None


@dataclass(frozen=True, eq=False)
class Step:
    """One token further. `finished`: the rows that ended with it; `going`: the tokens so far of
    the others, by the index of their request."""

    finished: Sequence[Completion]
    going: Mapping[int, tuple[int, ...]]


_INT_FIELDS = frozenset({"tokens", "unguided", "survivors"})


def _little_endian(array: Floats | Ints) -> npt.NDArray[np.generic]:
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)


def _typed(row: npt.NDArray[np.int32], name: str) -> Floats | Ints:
    if name in _INT_FIELDS:
        return row.astype(np.int32)
    return row.view("<f4").astype(np.float32)
