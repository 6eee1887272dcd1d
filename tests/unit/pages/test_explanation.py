"""Bars of an explanation: what γ and η did to each token."""

import math
from typing import Any

import pytest

from factory.web.pages.explanation import HEIGHT, explained, first_changed

GUIDANCE = {"rule": "steer", "gamma": 0.5, "eta": 0.4}
AXIS = HEIGHT / 2


def token(**changed: Any) -> dict[str, Any]:
    plain = {
        "token": " growth",
        "expert": -1.0,
        "base": -2.0,
        "negative": -0.5,
        "center": -1.5,
        "score": -1.1,
        "unguided": " growth",
        "survivors": 3,
    }
    return plain | changed


def test_effects_are_those_of_the_rule() -> None:
    [shown] = explained([token()], GUIDANCE)
    assert shown.expert_effect == pytest.approx(0.5 * (-1.0 + 2.0))
    assert shown.negative_effect == pytest.approx(-0.4 * (-0.5 + 1.5))


def test_without_a_centre_the_expert_stands_in() -> None:
    [shown] = explained([token(center=None)], GUIDANCE)
    assert shown.negative_effect == pytest.approx(-0.4 * (-0.5 + 1.0))


def test_likeness_is_no_probability() -> None:
    """Rule avoidance: half alike, and η times that off the score."""
    guidance = {"rule": "avoidance", "gamma": 0, "eta": 2.0}
    [shown] = explained([token(base=None, negative=0.5, center=None)], guidance)
    assert shown.negative == 0.5
    assert shown.negative_effect == -1


def test_learned_levers_are_named_where_they_acted() -> None:
    [shown] = explained([token(verdict_head=None, adapters=-0.25)], GUIDANCE)
    assert shown.learned == {"adapters": -0.25}
    [both] = explained([token(verdict_head=0.5, adapters=0.0)], GUIDANCE)
    assert both.learned == {"verdict head": 0.5, "adapters": 0.0}
    [neither] = explained([token()], GUIDANCE)
    assert neither.learned == {}
    assert neither.learned_bar is None


def test_what_learned_levers_added_is_one_bar_on_the_same_scale() -> None:
    levers = token(verdict_head=-1.5, adapters=-0.5)
    small, large = explained([levers, token(base=-5.0)], GUIDANCE)
    assert small.learned_bar is not None
    assert large.expert_bar is not None
    assert small.learned_bar.y == AXIS
    assert small.learned_bar.height == pytest.approx(large.expert_bar.height)
    [against] = explained([token(verdict_head=-1.5, adapters=1.5)], GUIDANCE)
    assert against.learned_bar is None


def test_bars_go_up_for_likelier_and_down_for_less_likely() -> None:
    [shown] = explained([token()], GUIDANCE)
    assert shown.expert_bar is not None
    assert shown.negative_bar is not None
    assert shown.expert_bar.y + shown.expert_bar.height == pytest.approx(AXIS)
    assert shown.negative_bar.y == AXIS


def test_bars_share_one_scale_and_stay_in_the_drawing() -> None:
    small, large = explained([token(base=-3.0), token(base=-20.0)], GUIDANCE)
    assert small.expert_bar is not None
    assert large.expert_bar is not None
    assert 0 < small.expert_bar.height < large.expert_bar.height <= AXIS


def test_a_stream_that_was_not_run_has_no_bar() -> None:
    [shown] = explained([token(base=None, negative=None, center=None)], GUIDANCE)
    assert (shown.expert_effect, shown.negative_effect) == (None, None)
    assert (shown.expert_bar, shown.negative_bar) == (None, None)


def test_a_bar_that_would_be_too_short_to_be_seen_is_left_out() -> None:
    small, _ = explained([token(base=-1.01), token(base=-20.0)], GUIDANCE)
    assert small.expert_bar is None
    assert small.expert_effect == pytest.approx(0.005)


def test_a_token_that_guidance_changed_is_marked() -> None:
    kept, changed = explained([token(), token(unguided=" loss")], GUIDANCE)
    assert (kept.changed, changed.changed) == (False, True)


@pytest.mark.parametrize(
    ("piece", "shown"), [(" ", "␣"), ("", "∅"), ("\n", "⏎"), (" a", " a"), ("a\tb", "a⇥b")]
)
def test_blank_tokens_can_be_seen(piece: str, shown: str) -> None:
    [token_] = explained([token(token=piece)], GUIDANCE)
    assert token_.shown == shown


LIKELIEST = {
    "guided": [
        {"token": " growth", "log_probability": math.log(0.6)},
        {"token": "\n", "log_probability": math.log(0.4)},
    ],
    "unguided": [{"token": " decay", "log_probability": math.log(0.9)}],
    "drawn": {"guided": math.log(0.6), "unguided": math.log(0.01)},
}


def test_the_likeliest_are_named_with_the_token_that_came_among_them() -> None:
    [shown] = explained([token(likeliest=LIKELIEST)], GUIDANCE)
    assert [(each.shown, each.drawn) for each in shown.guided_five] == [
        (" growth", True),
        ("⏎", False),
    ]
    assert [each.probability for each in shown.guided_five] == pytest.approx([0.6, 0.4])
    assert [(each.shown, each.drawn) for each in shown.unguided_five] == [
        (" decay", False),
        (" growth", True),
    ]
    assert shown.unguided_five[1].probability == pytest.approx(0.01)


def test_a_token_that_would_not_be_plausible_now_is_not_listed() -> None:
    gone = LIKELIEST | {"guided": LIKELIEST["guided"][1:], "drawn": {"guided": None, "unguided": 0}}
    [shown] = explained([token(likeliest=gone)], GUIDANCE)
    assert [each.drawn for each in shown.guided_five] == [False]


def test_an_explanation_of_before_names_none() -> None:
    [shown] = explained([token()], GUIDANCE)
    assert (shown.guided_five, shown.unguided_five) == ((), ())


def test_the_first_token_that_guidance_changed_is_shown_first() -> None:
    same, other = token(), token(unguided=" decay")
    assert first_changed(explained([same, other, other], GUIDANCE)) == 1
    assert first_changed(explained([same], GUIDANCE)) == 0
