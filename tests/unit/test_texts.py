"""Words that two texts share and where they differ."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from factory.texts import Part, differences, overlaps

WORDS = st.sampled_from(["a", "b", "c", "d", "e.", ",", "F"])
SENTENCE = st.lists(WORDS, max_size=12).map(" ".join)


def marked(parts: list[Part]) -> list[str]:
    return [part.text for part in parts if part.marked]


def test_what_the_other_text_lacks_is_marked_word_by_word() -> None:
    parts = differences("the red fox runs far", "the blue fox runs off now")
    assert marked(parts) == ["red", "far"]


def test_neighbouring_changes_are_one_mark_with_the_blank_between_them() -> None:
    assert marked(differences("it was very red today", "it was blue")) == ["very red today"]


def test_equal_texts_have_no_mark() -> None:
    assert marked(differences("as it is", "as it is")) == []


def test_shared_runs_of_three_words_are_marked_whatever_their_case() -> None:
    parts = overlaps("We think that Coral reefs grow slowly.", "In truth, coral reefs grow fast")
    assert marked(parts) == ["Coral reefs grow"]
    assert marked(overlaps("coral reefs", "coral reefs")) == []


@given(text=SENTENCE, other=SENTENCE)
def test_the_parts_are_the_text(text: str, other: str) -> None:
    for parts in (differences(text, other), overlaps(text, other)):
        assert "".join(part.text for part in parts) == text
        assert all(one.marked != next_.marked for one, next_ in pairwise(parts))
