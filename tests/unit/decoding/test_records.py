"""Traces survive being packed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.decoding import Trace

FIELDS = ("tokens", "expert", "base", "negative", "center", "scores", "unguided", "survivors")


def make(length: int, absent: set[str], seed: int) -> Trace:
    random = np.random.default_rng(seed)
    values = {
        name: random.integers(0, 2**31 - 1, length, dtype=np.int32)
        if name in ("tokens", "unguided", "survivors")
        else random.normal(-5, 3, length).astype(np.float32)
        for name in FIELDS
    }
    return Trace(**{name: None if name in absent else values[name] for name in FIELDS})


@given(
    length=st.integers(0, 90),
    absent=st.sets(st.sampled_from(["base", "negative", "center"])),
    seed=st.integers(0, 99),
)
def test_a_trace_comes_back_as_it_was(length: int, absent: set[str], seed: int) -> None:
    trace = make(length, absent, seed)
    back = Trace.from_bytes(trace.to_bytes())
    for name in FIELDS:
        before, after = getattr(trace, name), getattr(back, name)
        assert (before is None) == (after is None) == (name in absent)
        if before is not None:
            assert after.dtype == before.dtype
            assert after.tobytes() == before.tobytes()


def test_a_packed_trace_is_small() -> None:
    assert len(make(80, {"center"}, 0).to_bytes()) <= 80 * 7 * 4 + 32


@pytest.mark.parametrize(
    "packed", [b"", b"\x00", b"\xffnot deflated", make(3, set(), 0).to_bytes()[:-9]]
)
def test_other_bytes_are_refused(packed: bytes) -> None:
    with pytest.raises(ValueError, match="not a packed trace"):
        Trace.from_bytes(packed)
