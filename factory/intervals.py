"""95 % intervals that need no resampling. Standard library only."""

import math
from collections.abc import Sequence

Z = 1.959963984540054  # two-sided 95 %

Interval = tuple[float, float]


def wilson(hits: int, size: int) -> Interval:
    """The interval of a share, `hits` of `size` > 0 (Wilson 1927, JASA 22)."""
    share, spread = hits / size, Z**2 / size
    middle = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / size + spread / (4 * size))
    return max(0.0, middle - half), min(1.0, middle + half)


def jackknife(whole: float, without: Sequence[float], least: float = 0.0) -> Interval:
    """The interval of a value `whole` from `least` to 1, from its values without each of n ≥ 2
    members in turn (Quenouille 1956). For what a bootstrap would bias: it draws members twice."""
    mean = sum(without) / len(without)
    spread = sum((value - mean) ** 2 for value in without) * (len(without) - 1) / len(without)
    half = Z * math.sqrt(spread)
    return max(least, whole - half), min(1.0, whole + half)
