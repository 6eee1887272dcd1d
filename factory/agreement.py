"""How far reviewers agree beyond chance. Standard library only."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

Verdicts = Mapping[str, str]  # of one sample: reviewer → verdict


@dataclass(frozen=True)
class Pair:
    """Two reviewers on the samples that both judged. `kappa` is None where chance alone would
    have them agree on all."""

    one: str
    other: str
    samples: int
    agreed: int
    kappa: float | None


def krippendorff(samples: Sequence[Verdicts]) -> float | None:
    """Krippendorff's α for nominal verdicts: 1 is full agreement, 0 that of chance. Any number
    of reviewers, each of any part of the samples (Krippendorff 2004, chapter 11).

    None where no sample has two verdicts, or where all verdicts are the same.
    """
    coincident: dict[tuple[str, str], float] = defaultdict(float)
    totals: dict[str, float] = defaultdict(float)
    for verdicts in samples:
        for one, other in permutations(verdicts.values(), 2):
            coincident[one, other] += 1 / (len(verdicts) - 1)
            totals[one] += 1 / (len(verdicts) - 1)
    size = sum(totals.values())
    seen = sum(weight for (one, other), weight in coincident.items() if one != other)
    chance = sum(totals[one] * totals[other] for one, other in permutations(totals, 2))
    return 1 - (size - 1) * seen / chance if chance else None


def pairs(samples: Sequence[Verdicts]) -> list[Pair]:
    """Every two reviewers who judged a sample both, with Cohen's κ (Cohen 1960), by name."""
    together: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for verdicts in samples:
        for one, other in combinations(sorted(verdicts), 2):
            together[one, other].append((verdicts[one], verdicts[other]))
    return [_pair(*names, given) for names, given in sorted(together.items())]


def _pair(one: str, other: str, given: Sequence[tuple[str, str]]) -> Pair:
    size, agreed = len(given), sum(a == b for a, b in given)
    firsts, seconds = [a for a, _ in given], [b for _, b in given]
    chance = sum(firsts.count(v) * seconds.count(v) for v in {*firsts}) / size**2
    kappa = (agreed / size - chance) / (1 - chance) if chance < 1 else None
    return Pair(one, other, size, agreed, kappa)
