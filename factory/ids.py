"""Identifiers: UUIDv7 (RFC 9562), so that ids sort by the time they were made."""

import os
import time
import uuid


def new_id() -> uuid.UUID:
    """A new UUIDv7: 48 bits of Unix milliseconds, 12 of the millisecond's parts, then noise.

    The parts (RFC 9562, method 3) keep ids that one process makes in the order of their making.
    """
    stamp, rest = divmod(time.time_ns(), 1_000_000)
    part = (rest << 12) // 1_000_000
    noise = int.from_bytes(os.urandom(8)) & (1 << 62) - 1
    return uuid.UUID(int=(stamp & (1 << 48) - 1) << 80 | 0x7 << 76 | part << 64 | 0x2 << 62 | noise)


def earliest_id(seconds_ago: float) -> uuid.UUID:
    """An id before all that are made from so many seconds ago on: bounds a search by time."""
    return uuid.UUID(int=int((time.time() - seconds_ago) * 1000) << 80)
