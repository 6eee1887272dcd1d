"""Numbers, times and settings as people read them."""

from datetime import UTC, datetime, timedelta

import pytest

from factory.web.pages import words


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.5, ".5"), (-0.3, "−.3"), (0.0, "0"), (1.0, "1"), (1.25, "1.25"), (None, "–"), (10, "10")],
)
def test_a_lever_is_said_as_short_as_it_can_be(value: float | None, said: str) -> None:
    assert words.lever(value) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "–"),
        (0.4, "less than 1 s"),
        (59.6, "1 min"),
        (130, "2 min 10 s"),
        (3605, "1 h"),
        (7260, "2 h 1 min"),
    ],
)
def test_a_duration_has_two_units_at_most(seconds: float | None, said: str) -> None:
    assert words.duration(seconds) == said


@pytest.mark.parametrize(
    ("age", "said"),
    [
        (timedelta(seconds=1), "just now"),
        (timedelta(seconds=30), "30 s ago"),
        (timedelta(minutes=3), "3 min ago"),
        (timedelta(hours=2, minutes=59), "2 h ago"),
        (timedelta(days=3), "3 d ago"),
    ],
)
def test_a_time_is_said_relative_to_now(age: timedelta, said: str) -> None:
    assert words.ago(datetime.now(UTC) - age) == said


def test_an_old_time_is_a_day() -> None:
    assert words.ago(datetime(2025, 3, 9, tzinfo=UTC)) == "09 Mar 2025"


def test_a_share_of_nothing_is_not_a_division_by_zero() -> None:
    assert words.percent(0, 0) == "–"
    assert words.percent(1, 3) == "33 %"


def test_every_colour_has_a_sign() -> None:
    assert all(sign and colour for sign, colour in words.SIGNS.values())
