"""Reviews in figures: by reason, reviewer and day, agreement, and what feedback changed."""

import math
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from statistics import median
from typing import TypeVar

from factory import agreement, intervals, texts
from factory.intervals import Interval
from factory.reviews import REASONS, VERDICTS, Judged

DAYS = 14  # drawn
ROUNDS = 6  # jobs drawn
LEAST = 10  # verdicts on each side, before anything is said about an effect
COMPARED = 200  # texts of each side whose variety is compared

Counted = Mapping[tuple[str, str, str], int]  # (reviewer, day, verdict) → reviews
KeyT = TypeVar("KeyT", bound=Hashable)


@dataclass(frozen=True)
class Group:
    """The reviews of one reviewer, or of one day."""

    name: str
    verdicts: dict[str, int]
    seconds: float | None = None  # median that a verdict took

    @property
    def total(self) -> int:
        """Reviews in all."""
        return sum(self.verdicts.values())


@dataclass(frozen=True)
class Share:
    """Rejected ones of the samples that have a verdict; the interval is of 95 %."""

    rejected: int
    decided: int

    @property
    def value(self) -> float:
        """Between 0 and 1."""
        return self.rejected / self.decided

    @property
    def interval(self) -> Interval:
        """Wilson's."""
        return intervals.wilson(self.rejected, self.decided)


@dataclass(frozen=True)
class Round:
    """One job: the share rejected without feedback, and with it; None where nothing was judged."""

    job_id: uuid.UUID
    without: Share | None
    with_: Share | None


@dataclass(frozen=True)
class Reason:
    """How often a reason was given, per sample without feedback and with it."""

    name: str
    without: Share
    with_: Share


@dataclass(frozen=True)
class Effect:
    """What feedback changed: both shares, their difference in percentage points, variety."""

    without: Share
    with_: Share
    difference: Interval
    reasons: Sequence[Reason]
    variety: tuple[float, float] | None
    variety_changed: bool

    @property
    def is_clear(self) -> bool:
        """Whether the interval of the difference leaves out zero."""
        low, high = self.difference
        return low > 0 or high < 0


@dataclass(frozen=True)
class Figures:
    """All of them."""

    reviews: int
    reviewers: Sequence[Group]
    days: Sequence[Group]
    effect: Effect | None
    rounds: Sequence[Round]
    doubly: int
    alpha: float | None
    pairs: Sequence[agreement.Pair]


def figures(judged: Sequence[Judged], counted: Counted, today: date) -> Figures:
    """Figures of the newest reviews, newest first, and of counts of all: (reviewer, day, verdict)
    → number. A sample's latest verdict is its verdict."""
    latest = list(_by(judged, lambda review: review.sample_id).values())
    decided = [max(some, key=lambda review: review.updated_at) for some in latest]
    given = [_by_reviewer(some) for some in latest]
    twice = [verdicts for verdicts in given if len(verdicts) > 1]
    return Figures(
        reviews=sum(counted.values()),
        reviewers=_reviewers(judged, counted),
        days=_days(counted, today),
        effect=_effect(decided),
        rounds=_rounds(decided),
        doubly=len(twice),
        alpha=agreement.krippendorff(twice),
        pairs=agreement.pairs(twice),
    )


def _by(judged: Sequence[Judged], key: Callable[[Judged], KeyT]) -> dict[KeyT, list[Judged]]:
    grouped: dict[KeyT, list[Judged]] = defaultdict(list)
    for review in judged:
        grouped[key(review)].append(review)
    return grouped


def _by_reviewer(reviews: Sequence[Judged]) -> dict[str, str]:
    """Each reviewer's latest verdict on one sample."""
    ordered = sorted(reviews, key=lambda review: review.updated_at)
    return {review.reviewer: review.verdict for review in ordered}


def _reviewers(judged: Sequence[Judged], counted: Counted) -> list[Group]:
    """Who gave the most verdicts first; the time of each is that of the newest."""
    took: dict[str, list[float]] = defaultdict(list)
    for review in judged:
        took[review.reviewer] += [review.lead_seconds] if review.lead_seconds is not None else []
    groups = [
        Group(
            name,
            _verdicts(counted, 0, name),
            median(took[name]) if took[name] else None,
        )
        for name in {who for who, _, _ in counted}
    ]
    return sorted(groups, key=lambda group: (-group.total, group.name))


def _days(counted: Counted, today: date) -> list[Group]:
    """Every one of the last days, in UTC, oldest first."""
    days = [today - timedelta(days=back) for back in reversed(range(DAYS))]
    return [Group(f"{day:%d %b}", _verdicts(counted, 1, day.isoformat())) for day in days]


def _verdicts(counted: Counted, part: int, value: str) -> dict[str, int]:
    """Those whose key has `value` as its `part`."""
    numbers = dict.fromkeys(VERDICTS, 0)
    for key, number in counted.items():
        numbers[key[2]] += number if key[part] == value else 0
    return numbers


def _rounds(decided: Sequence[Judged]) -> list[Round]:
    """The newest jobs, oldest first."""
    newest = sorted(_by(decided, lambda review: review.job_id).items(), reverse=True)[:ROUNDS]
    return [
        Round(
            job_id,
            *(_share([r for r in some if r.steered is steered]) for steered in (False, True)),
        )
        for job_id, some in reversed(newest)
    ]


def _share(decided: Sequence[Judged]) -> Share | None:
    rejected = sum(review.verdict == "reject" for review in decided)
    return Share(rejected, len(decided)) if decided else None


def _effect(decided: Sequence[Judged]) -> Effect | None:
    """Samples made without feedback beside those steered away from rejected ones; None until
    there are enough of both."""
    plain, steered = ([r for r in decided if r.steered is side] for side in (False, True))
    without, with_ = _share(plain), _share(steered)
    if not without or not with_ or min(without.decided, with_.decided) < LEAST:
        return None
    numbers = (with_.rejected, with_.decided, without.rejected, without.decided)
    variety, changed = _variety(plain, steered)
    return Effect(
        without, with_, intervals.difference(*numbers), _reasons(plain, steered), variety, changed
    )


def _reasons(plain: Sequence[Judged], steered: Sequence[Judged]) -> list[Reason]:
    """Reasons that were given, the commonest without feedback first."""
    counted = [Counter(r for review in side for r in review.reasons) for side in (plain, steered)]
    found = [
        Reason(name, Share(counted[0][name], len(plain)), Share(counted[1][name], len(steered)))
        for name in REASONS
        if counted[0][name] or counted[1][name]
    ]
    return sorted(found, key=lambda reason: -reason.without.value)


def _variety(
    plain: Sequence[Judged], steered: Sequence[Judged]
) -> tuple[tuple[float, float] | None, bool]:
    """Distinct-3 of sets of one size, (without, with), and whether they differ beyond chance."""
    size = min(len(plain), len(steered), COMPARED)
    sides = [[review.text for review in side[:size]] for side in (plain, steered)]
    values = [texts.distinct(side) for side in sides]
    bounds = [texts.distinct_interval(side) for side in sides]
    if None in values or None in bounds:
        return None, False
    one, other = (float(value or 0) for value in values)
    halves = [(high - low) / 2 for low, high in filter(None, bounds)]
    return (one, other), abs(one - other) > math.hypot(*halves)
