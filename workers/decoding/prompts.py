"""Contexts as token ids: joining documents with a prompt, and checking what a model can take."""

from collections.abc import Sequence

from factory.errors import PromptError


def join_documents(
    documents: Sequence[Sequence[int]], prompt_ids: Sequence[int], budget: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Put documents before a prompt: (ids, spans), spans being the documents' lengths.

    Documents that do not fit into `budget` tokens together with the prompt are left out
    whole, the last ones first. Without documents the ids are empty: nothing to steer from.
    Raises PromptError when the prompt alone, or the first document with it, does not fit.
    """
    room = budget - len(prompt_ids)
    kept: list[Sequence[int]] = []
    for document in documents:
        if len(document) > room:
            break
        room -= len(document)
        kept.append(document)
    if not documents:
        return (), ()
    if not kept:
        raise PromptError(
            f"the first document ({len(documents[0])} tokens) and the prompt "
            f"({len(prompt_ids)} tokens) do not fit into {budget} tokens; use shorter documents"
        )
    ids = tuple(token for document in kept for token in document) + tuple(prompt_ids)
    return ids, tuple(len(document) for document in kept)


def check_context(
    name: str, ids: Sequence[int], vocab_size: int, max_new_tokens: int, max_positions: int
) -> None:
    """Raise PromptError when `ids` are empty, outside the vocabulary, or leave no room."""
    if not ids:
        raise PromptError(f"the {name} is empty: give at least one token (such as bos)")
    foreign = [token for token in ids if not 0 <= token < vocab_size]
    if foreign:
        raise PromptError(
            f"the {name} holds token id {foreign[0]}, but the vocabulary has ids 0 to "
            f"{vocab_size - 1}: was it made with another tokenizer?"
        )
    if len(ids) + max_new_tokens > max_positions:
        raise PromptError(
            f"the {name} has {len(ids)} tokens and max_new_tokens is {max_new_tokens}, together "
            f"more than the model's {max_positions} positions: shorten it or leave out documents"
        )
