"""What a model can take as a context."""

from collections.abc import Sequence

from factory.errors import PromptError


def check_other(prompt: Sequence[int], ids: Sequence[int], spans: Sequence[int]) -> None:
    """Raise PromptError when a context does not begin with a document that begins with the
    prompt: a sample can be contrasted only with one that could stand in its place."""
    begins = ids[: len(prompt)] == prompt and len(spans) > 0 and spans[0] > len(prompt)
    if ids and not begins:
        raise PromptError(
            "rule 'correlated' contrasts a sample with another of the same prompt, but the "
            "negative context does not begin with one: give its document's length, prompt first"
        )


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
