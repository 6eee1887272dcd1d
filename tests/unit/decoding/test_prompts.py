"""Documents joined with a prompt, cut at whole documents."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.errors import PromptError
from workers.decoding import join_documents

documents = st.lists(st.lists(st.integers(3, 60), min_size=1, max_size=9), min_size=1, max_size=6)


def test_documents_go_before_the_prompt() -> None:
    assert join_documents([[4, 5], [6]], [9, 8], 10) == ((4, 5, 6, 9, 8), (2, 1))


def test_without_documents_there_is_nothing_to_steer_from() -> None:
    assert join_documents([], [9, 8], 10) == ((), ())


@given(
    documents=documents, prompt=st.lists(st.integers(3, 60), max_size=5), budget=st.integers(1, 40)
)
def test_only_whole_documents_are_left_out(
    documents: list[list[int]], prompt: list[int], budget: int
) -> None:
    if len(documents[0]) + len(prompt) > budget:
        with pytest.raises(PromptError, match=f"do not fit into {budget} tokens"):
            join_documents(documents, prompt, budget)
        return
    ids, spans = join_documents(documents, prompt, budget)
    assert len(ids) <= budget
    kept = documents[: len(spans)]
    assert list(ids) == [token for document in [*kept, prompt] for token in document]
    assert list(spans) == [len(document) for document in kept]
    if len(kept) < len(documents):
        assert len(ids) + len(documents[len(kept)]) > budget
