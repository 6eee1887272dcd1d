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


def difference(hits: int, size: int, other_hits: int, other_size: int) -> Interval:
    """The interval of one share minus another, of two independent sets (Newcombe 1998,
    Statistics in Medicine 17, method 10)."""
    one, other = hits / size, other_hits / other_size
    (low, high), (other_low, other_high) = wilson(hits, size), wilson(other_hits, other_size)
    below = math.hypot(one - low, other_high - other)
    above = math.hypot(high - one, other - other_low)
    return one - other - below, one - other + above


def jackknife(whole: float, without: Sequence[float], least: float = 0.0) -> Interval:
    """The interval of a value `whole` from `least` to 1, from its values without each of n ≥ 2
    members in turn (Quenouille 1956). For what a bootstrap would bias: it draws members twice."""
    mean = sum(without) / len(without)
    spread = sum((value - mean) ** 2 for value in without) * (len(without) - 1) / len(without)
    half = Z * math.sqrt(spread)
    return max(least, whole - half), min(1.0, whole + half)
