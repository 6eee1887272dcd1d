"""The demo's language: every sentence parses back, and broken ones are refused."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.local.demo import grammar
from factory.local.demo.corpus import FAVOURITE, broken, document, real_samples
from factory.local.demo.reviewer import REJECTED_THEME, review

SENTENCE = (
    "We propose that coral reefs strengthen sea ice in warm seasons, "
    "so when coral reefs grow, sea ice rises."
)
seeds = st.integers(0, 2**32)


@given(seeds)
def test_a_drawn_sentence_parses_to_what_it_was_drawn_from(seed: int) -> None:
    drawn = grammar.draw(Random(seed))
    assert grammar.parse(str(drawn)) == drawn
    assert grammar.theme(str(drawn)) == drawn.theme


@given(seeds, st.data())
def test_a_sentence_without_one_of_its_words_is_refused(seed: int, data: st.DataObject) -> None:
    parts = grammar.sample(Random(seed)).split(" ")
    at = data.draw(st.integers(0, len(parts) - 1))
    assert grammar.parse(" ".join(parts[:at] + parts[at + 1 :])) is None


@given(seeds, st.text(min_size=1, max_size=3), st.integers(0, 200))
def test_a_sentence_with_anything_put_in_is_refused(seed: int, extra: str, at: int) -> None:
    text = grammar.sample(Random(seed))
    assert grammar.parse(text[:at] + extra + text[at:]) is None


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("strengthen ", "strengthens "),
        ("reefs grow", "reefs grows"),
        ("ice rises", "ice rise"),
        ("when coral reefs", "when kelp forests"),
        ("strengthen sea ice", "strengthen leaf litter"),
        ("in warm seasons", "in warm stress"),
        ("seasons,", "seasons ,"),
        ("We ", "we "),
        ("rises.", "rises"),
    ],
)
def test_one_wrong_form_is_refused(right: str, wrong: str) -> None:
    assert grammar.parse(SENTENCE) is not None
    assert grammar.parse(SENTENCE.replace(right, wrong)) is None


def test_cause_and_effect_are_two_entities_of_one_field() -> None:
    other_field = SENTENCE.replace("sea ice", "leaf litter")
    itself = SENTENCE.replace("sea ice rises", "coral reefs rise").replace("sea ice", "coral reefs")
    assert grammar.parse(other_field) is None
    assert grammar.parse(itself) is None


def test_the_theme_of_broken_text_is_the_field_it_speaks_of_most() -> None:
    assert grammar.theme("reefs ice leaf") == "ocean"
    assert grammar.theme("leaf reefs") == "soil"
    assert grammar.theme("so we expect") is None


def test_no_word_belongs_to_two_fields() -> None:
    words = [word for entity in grammar.ENTITIES for word in entity.name.split()]
    assert len(grammar.ENTITIES) == 6 * 8
    assert len(words) == len(set(words))
    assert not set(words) & {
        w for part in grammar.OPENINGS + grammar.SETTINGS for w in part.split()
    }


@given(seeds)
def test_the_vocabulary_holds_every_word_of_every_document(seed: int) -> None:
    texts = [grammar.PROMPT, *document(Random(seed))]
    assert {word for text in texts for word in grammar.words(text)} <= set(grammar.vocabulary())


@given(seeds)
def test_a_broken_sentence_differs_in_words_only(seed: int) -> None:
    rng = Random(seed)
    text = broken(rng, grammar.sample(rng))
    assert set(grammar.words(text)) <= set(grammar.vocabulary())
    assert "  " not in text


def test_documents_share_a_topic_more_often_than_not() -> None:
    documents = [document(Random(seed)) for seed in range(300)]
    lists = [[grammar.theme(text) for text in texts] for texts in documents if len(texts) >= 4]
    one_theme = [themes for themes in lists if len(set(themes)) == 1]
    assert 0.5 < len(one_theme) / len(lists) < 0.9


def test_real_samples_are_different_coherent_and_lean_on_one_theme() -> None:
    real = real_samples(300, seed=1)
    assert len(set(real)) == 300
    assert all(grammar.parse(text) for text in real)
    share = sum(grammar.theme(text) == FAVOURITE for text in real) / 300
    assert 0.25 < share < 0.35
    assert real_samples(300, seed=1) == real
    assert real_samples(300, seed=2) != real


def test_the_reviewer_rejects_one_theme_and_nothing_else() -> None:
    for theme in grammar.THEMES:
        verdict = review(grammar.sample(Random(0), theme))
        expected = ("reject", ("off_topic",)) if theme == REJECTED_THEME else ("accept", ())
        assert (verdict.verdict, verdict.reasons) == expected
    assert review("no hypothesis at all").verdict == "accept"
