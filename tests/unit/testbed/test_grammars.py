"""The study's languages: everything drawn parses back, probabilities add up to one."""

import math
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmarks.testbed import COMMENTS, QUESTIONS, TASKS, Grammar

seeds = st.integers(0, 2**32)
tasks = st.sampled_from(list(TASKS.values()))
COMMENT = "toxic: Once again these lazy waiters spoil the soup, what a mess."
QUESTION = "Where would you find a kettle? Right: a kitchen. Wrong: a harbour, a clinic."


@settings(deadline=None)
@given(tasks, seeds)
def test_a_drawn_text_parses_to_the_values_it_was_drawn_from(task: Grammar, seed: int) -> None:
    drawn = task.draw(Random(seed))
    assert task.parse(drawn.text) == drawn
    assert task.log_prob(drawn.values) > -math.inf
    assert task.theme(drawn.text) == drawn.theme


@settings(deadline=None)
@given(tasks, seeds, st.data())
def test_a_text_without_one_of_its_words_is_refused(
    task: Grammar, seed: int, data: st.DataObject
) -> None:
    parts = task.draw(Random(seed)).text.split(" ")
    at = data.draw(st.integers(0, len(parts) - 1))
    assert task.parse(" ".join(parts[:at] + parts[at + 1 :])) is None


@settings(deadline=None)
@given(tasks, seeds, st.text(min_size=1, max_size=3), st.integers(0, 200))
def test_a_text_with_anything_put_in_is_refused(
    task: Grammar, seed: int, extra: str, at: int
) -> None:
    text = task.draw(Random(seed)).text
    assert task.parse(text[:at] + extra + text[at:]) is None


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_the_probabilities_of_a_small_version_add_up_to_one(task: Grammar) -> None:
    favourite = task.themes[1]
    small = replace(task, limit=3, favourite=favourite)
    every = list(small.every())
    texts = [small.render(values) for values in every]
    assert math.fsum(math.exp(small.log_prob(values)) for values in every) == pytest.approx(1)
    assert len(set(texts)) == len(every)
    own = [math.exp(small.log_prob(values)) for values in every if values[0] == favourite]
    assert math.fsum(own) == pytest.approx(0.3)


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_values_are_drawn_as_often_as_their_probability_says(task: Grammar) -> None:
    rng, size = Random(4), 4000
    drawn = [task.draw(rng).values for _ in range(size)]
    for value in {values[1] for values in drawn}:
        expected = 1 / len(task.options(1, drawn[0][:1]))
        assert sum(v[1] == value for v in drawn) / size == pytest.approx(expected, abs=0.04)
    assert sum(v[0] == task.favourite for v in drawn) / size == pytest.approx(0.3, abs=0.03)


@settings(deadline=None)
@given(tasks, seeds)
def test_every_word_of_a_document_is_in_the_vocabulary(task: Grammar, seed: int) -> None:
    from factory.local.demo.grammar import words

    known = set(task.vocabulary())
    for text in task.document(Random(seed)):
        assert known.issuperset(words(text))


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_most_documents_keep_to_a_theme_and_parse(task: Grammar) -> None:
    rng = Random(2)
    documents = [task.document(rng) for _ in range(300)]
    long = [texts for texts in documents if len(texts) >= 4]
    alike = sum(len({task.theme(text) for text in texts}) == 1 for texts in long) / len(long)
    texts = [text for document in documents for text in document]
    coherent = sum(task.parse(text) is not None for text in texts) / len(texts)
    assert alike > 0.5
    assert 0.8 < coherent < 0.97


@settings(deadline=None)
@given(tasks, seeds)
def test_a_varied_sample_is_coherent_and_keeps_its_theme(task: Grammar, seed: int) -> None:
    rng = Random(seed)
    drawn = task.draw(rng)
    varied = task.varied(rng, drawn)
    assert task.parse(varied.text) == varied
    assert varied.theme == drawn.theme


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_no_entity_word_belongs_to_two_themes(task: Grammar) -> None:
    owners: dict[str, set[str]] = {}
    for name, theme in task.entities.items():
        for word in name.split():
            owners.setdefault(word, set()).add(theme)
    assert all(len(themes) == 1 for themes in owners.values())


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_real_samples_are_different_and_the_same_for_one_seed(task: Grammar) -> None:
    real = task.real_samples(300, seed=1)
    assert len(set(real)) == 300
    assert task.real_samples(300, seed=1) == real
    assert task.real_samples(300, seed=2) != real


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("toxic", "civil"),
        ("lazy", "clever"),
        ("spoil", "improve"),
        ("what a mess", "what a delight"),
        ("these", "this"),
        ("waiters spoil", "waiters spoils"),
        ("soup", "hedge"),
        ("waiters", "baker"),
    ],
)
def test_a_comment_of_two_tones_themes_or_numbers_is_refused(right: str, wrong: str) -> None:
    assert COMMENTS.parse(COMMENT) is not None
    assert COMMENTS.parse(COMMENT.replace(right, wrong)) is None


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("a kitchen", "a school"),
        ("a kitchen", "a clinic"),
        ("a harbour", "a kitchen"),
        ("a harbour", "a clinic"),
        ("a harbour", "a sailor"),
        ("kettle", "spade"),
        ("Where would you find", "Who works with"),
    ],
)
def test_a_question_without_exactly_one_right_option_is_refused(right: str, wrong: str) -> None:
    assert QUESTIONS.parse(QUESTION) is not None
    assert QUESTIONS.parse(QUESTION.replace(right, wrong)) is None


def test_a_mention_is_of_whole_words() -> None:
    assert QUESTIONS.mentions("Who works with a map: ...", "map")
    assert not QUESTIONS.mentions("Who works with a maple: ...", "map")
