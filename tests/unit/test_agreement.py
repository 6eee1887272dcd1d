"""Agreement of reviewers, against values worked out by hand and published ones."""

import pytest

from factory.agreement import krippendorff, pairs
from factory.intervals import difference


def test_full_agreement_is_one_and_too_little_says_nothing() -> None:
    assert krippendorff([{"a": "accept", "b": "accept"}, {"a": "reject", "b": "reject"}]) == 1
    assert krippendorff([{"a": "accept", "b": "accept"}]) is None
    assert krippendorff([]) is None


def test_alpha_of_two_reviewers_by_hand() -> None:
    """Four samples, one disagreement: o = 2 of n = 8, e = 2·5·3 / (8·7); α = 1 − 7·2/30."""
    samples = [
        {"a": "accept", "b": "accept"},
        {"a": "accept", "b": "accept"},
        {"a": "reject", "b": "reject"},
        {"a": "accept", "b": "reject"},
    ]
    assert krippendorff(samples) == pytest.approx(1 - 7 * 2 / 30)


def test_two_people_are_compared_on_what_both_judged() -> None:
    """κ = (p − e) / (1 − e) with p = 3/4 and e = (3·2 + 1·2) / 16 = 1/2."""
    samples = [
        {"ada": "accept", "bob": "accept"},
        {"ada": "accept", "bob": "accept"},
        {"ada": "accept", "bob": "reject"},
        {"ada": "reject", "bob": "reject", "cyd": "fix"},
        {"cyd": "fix"},
    ]
    found = {(pair.one, pair.other): pair for pair in pairs(samples)}
    assert set(found) == {("ada", "bob"), ("ada", "cyd"), ("bob", "cyd")}
    both = found["ada", "bob"]
    assert (both.samples, both.agreed) == (4, 3)
    assert both.kappa == pytest.approx(0.5)


def test_the_difference_of_two_shares_has_newcombes_interval() -> None:
    """The first example of Newcombe (1998), table II: 56/70 and 48/80, method 10."""
    low, high = difference(56, 70, 48, 80)
    assert low == pytest.approx(0.0524, abs=1e-4)
    assert high == pytest.approx(0.3339, abs=1e-4)
