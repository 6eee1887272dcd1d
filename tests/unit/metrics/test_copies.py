"""Copies, yield and acceptance, counted by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.metrics import copies

REAL = ["one two three four five six seven", "eight nine ten"]
TEXTS = st.lists(st.text("abc ", min_size=1, max_size=24), min_size=1, max_size=8)


def test_verbatim_copies_have_the_same_words() -> None:
    texts = ["Eight NINE  ten", "eight nine", "one two three four five six seven", "new"]
    found = copies.verbatim(texts, REAL)
    assert (found.value, found.n) == (2 / 4, 4)
    # Wilson, 2 of 4
    assert (found.low, found.high) == pytest.approx((0.1500, 0.8500), abs=1e-4)


def test_near_copies_share_four_fifths_of_their_runs_with_one_real_sample() -> None:
    near = "one two three four five six other"  # 4 of 5 runs
    half = "one two three four other words here"  # 2 of 5
    spread = "one two three eight nine ten"  # 2 of 4, of two samples
    short = "eight nine"  # no run of three: itself a run, which no real sample is
    found = copies.near_copies_ngram([near, half, spread, short, REAL[1]], REAL)
    assert found.value == 2 / 5


def test_real_samples_are_compared_with_all_others() -> None:
    real = ["a b c", "A b c", "one two three four five six seven", "one two three four five six x"]
    assert copies.verbatim(real, real, others=True).value == 2 / 4
    assert copies.near_copies_ngram(real, real, others=True).value == 4 / 4
    assert copies.near_copies_ngram(real[1:], real[1:], others=True).value == 2 / 3
    turns = np.array([[np.cos(a), np.sin(a)] for a in (0, 0.3, 1.2)])
    assert copies.near_copies_embedding(turns, turns, others=True).value == 2 / 3


def test_near_copies_by_meaning_are_those_beyond_the_threshold() -> None:
    real = np.array([[1.0, 0.0], [0.0, 1.0]])
    angles = (0, 0.3, 0.4, 0.8)  # cosines 1, .955, .921, .717 to the nearest
    made = np.array([[np.cos(a), np.sin(a)] for a in angles])
    assert copies.near_copies_embedding(made, real).value == 2 / 4


def test_yield_counts_unique_valid_new_and_unrefused_samples() -> None:
    rows = {
        "a fresh one": "generated",
        "an accepted one": "accepted",
        "in review": "in_review",
        "refused": "rejected",
        "rewritten": "fixed",
        "": "filtered",
        "Eight nine ten": "accepted",  # a copy
        "A fresh  one": "generated",  # a repetition
    }
    found = copies.usable(list(rows), list(rows.values()), REAL)
    assert (found.value, found.n, found.note) == (3 / 8, 8, None)


def test_yield_without_real_samples_says_that_copies_are_not_known() -> None:
    found = copies.usable(["new"], ["generated"], [])
    assert found.value == 1
    assert found.note


def test_acceptance_is_among_those_with_a_verdict() -> None:
    states = ["accepted", "accepted", "rejected", "fixed", "in_review", "generated", "filtered"]
    found = copies.acceptance("acceptance_guided", states)
    assert (found.name, found.value, found.n) == ("acceptance_guided", 2 / 4, 4)


@pytest.mark.parametrize(
    "found",
    [
        copies.verbatim(["a"], []),
        copies.verbatim([], ["a"]),
        copies.near_copies_ngram(["a"], []),
        copies.near_copies_embedding(np.ones((1, 2)), np.empty((0, 2))),
        copies.near_copies_embedding(np.empty(0), np.ones((1, 2))),
        copies.usable([], [], ["a"]),
        copies.acceptance("acceptance_audit", ["in_review"]),
    ],
)
def test_what_cannot_be_measured_is_told(found: copies.Measure) -> None:
    assert (found.value, found.low, found.high) == (None, None, None)
    assert found.note


@given(TEXTS)
def test_a_set_copies_itself(texts: list[str]) -> None:
    assert copies.verbatim(texts, texts).value == 1
    assert copies.near_copies_ngram(texts, texts).value == 1
    assert copies.usable(texts, ["generated"] * len(texts), texts).value == 0


@given(TEXTS, TEXTS)
def test_a_verbatim_copy_is_a_near_copy_too(texts: list[str], real: list[str]) -> None:
    exact, near = copies.verbatim(texts, real), copies.near_copies_ngram(texts, real)
    assert (exact.value or 0) <= (near.value or 0)
