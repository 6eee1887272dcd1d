"""What the review page says of verdicts."""

import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

from factory.reviews import Judged
from factory.web.pages.review_figures import Figures, figures

NOW = datetime(2026, 5, 14, 12, tzinfo=UTC)
FIRST, SECOND = uuid.UUID(int=1), uuid.UUID(int=2)


def review(number: int, verdict: str, **more: Any) -> Judged:
    given = {
        "sample_id": uuid.UUID(int=number),
        "job_id": FIRST,
        "text": f"text number {number} says this",
        "verdict": verdict,
        "reasons": ["off_topic"] if verdict == "reject" else [],
        "reviewer": "ada",
        "lead_seconds": 4.0,
        "updated_at": NOW,
        "audit": False,
        "steered": False,
    }
    return Judged(**given | more)


def side(start: int, rejected: int, accepted: int, **more: Any) -> list[Judged]:
    verdicts = ["reject"] * rejected + ["accept"] * accepted
    return [review(start + n, verdict, **more) for n, verdict in enumerate(verdicts)]


def shown(judged: list[Judged]) -> Figures:
    counted = Counter((r.reviewer, r.updated_at.date().isoformat(), r.verdict) for r in judged)
    return figures(judged, counted, NOW.date())


def test_feedback_is_told_by_shares_and_the_interval_between_them() -> None:
    found = shown(side(0, 20, 80) + side(100, 4, 96, steered=True, job_id=SECOND))
    effect = found.effect
    assert effect is not None
    assert (effect.without.value, effect.with_.value) == (0.2, 0.04)
    low, high = effect.difference
    assert -0.30 < low < -0.16 < high < 0
    assert effect.is_clear
    assert not effect.variety_changed
    [reason] = effect.reasons
    assert (reason.name, reason.without.value, reason.with_.value) == ("off_topic", 0.2, 0.04)
    assert [(r.job_id, bool(r.without), bool(r.with_)) for r in found.rounds] == [
        (FIRST, True, False),
        (SECOND, False, True),
    ]


def test_a_small_difference_is_not_called_one() -> None:
    effect = shown(side(0, 5, 45) + side(100, 4, 46, steered=True)).effect
    assert effect is not None
    assert not effect.is_clear


def test_nothing_is_said_of_a_few_verdicts() -> None:
    assert shown(side(0, 5, 4) + side(100, 0, 90, steered=True)).effect is None
    assert shown([]).effect is None


def test_texts_that_repeat_each_other_are_less_varied() -> None:
    repeated = side(100, 0, 50, steered=True, text="the same words again and again")
    effect = shown(side(0, 5, 45) + repeated).effect
    assert effect is not None
    assert effect.variety is not None
    assert effect.variety_changed
    assert effect.variety[1] < effect.variety[0]


def test_the_latest_verdict_of_a_sample_is_its_verdict() -> None:
    earlier = NOW - timedelta(hours=1)
    judged = [
        review(1, "accept", reviewer="bob", updated_at=earlier),
        review(1, "reject"),
        *side(10, 9, 0),
        *side(100, 0, 10, steered=True),
    ]
    found = shown(judged)
    assert found.effect is not None
    assert found.effect.without.rejected == 10
    assert found.doubly == 1
    assert [(p.one, p.other, p.agreed) for p in found.pairs] == [("ada", "bob", 0)]


def test_reviewers_and_days_are_counted() -> None:
    yesterday = NOW - timedelta(days=1)
    judged = [
        review(1, "accept"),
        review(2, "reject", lead_seconds=8.0),
        review(3, "fix", reviewer="bob", updated_at=yesterday, lead_seconds=None),
        review(4, "fix", reviewer="bob", updated_at=NOW - timedelta(days=40), lead_seconds=None),
    ]
    found = shown(judged)
    ada, bob = sorted(found.reviewers, key=lambda group: group.name)
    assert (ada.verdicts, ada.seconds) == ({"accept": 1, "reject": 1, "fix": 0}, 6.0)
    assert (bob.total, bob.seconds) == (2, None)
    assert [day.total for day in found.days[-2:]] == [1, 2]
    assert len(found.days) == 14
