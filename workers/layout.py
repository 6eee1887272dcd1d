"""How texts become contexts, and token ids texts again. One place for training and generation.

Layout "list-1": a document is `<prompt> <text><eos>`; a context is `<bos>`, some documents and
the prompt of the text to come. The expert is trained on such lists, so a list of negatives in
front of the prompt is something it has learned to read.

    bos │ prompt x₁ eos │ prompt x₂ eos │ … │ prompt
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from factory.errors import ModelError, PromptError

NAME = "list-1"
_PROBE = "a"


@dataclass(frozen=True)
class Context:
    """A context with documents in front of the prompt.

    ids    bos, the documents, the prompt
    spans  the documents' lengths, in order; the first one's holds bos; the rest is the prompt
    kept   positions of the texts that the documents were made of
    """

    ids: tuple[int, ...]
    spans: tuple[int, ...]
    kept: tuple[int, ...]


class Layout:
    """The layout of one dataset's prompt under one tokenizer.

    The space between prompt and text belongs to the text's first token, as words carry it in
    most vocabularies; so spaces at the prompt's end are dropped. It is no part of the text.

    Raises ModelError for a tokenizer without an end-of-sequence token, and PromptError when
    the prompt is empty and there is no beginning-of-sequence token to start from.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: str) -> None:
        if tokenizer.eos_token_id is None:
            raise ModelError("the tokenizer has no eos token, which ends a document: set one")
        self._tokenizer = tokenizer
        prompt = prompt.rstrip(" ")
        self._joiner = "" if not prompt or prompt[-1].isspace() else " "
        self._prompt = tuple(self._encode(prompt))
        self._eos = int(tokenizer.eos_token_id)
        self._bos = () if tokenizer.bos_token_id is None else (int(tokenizer.bos_token_id),)
        if not self._bos and not self._prompt:
            raise PromptError(
                "the prompt is empty and the tokenizer has no bos token to start from: "
                "give the dataset a prompt"
            )
        self._head = self._decode(self._prompt)
        self._lead = self._leading_space()

    def prompt_ids(self) -> tuple[int, ...]:
        """What a text is generated from without negatives: bos and the prompt."""
        return (*self._bos, *self._prompt)

    def text_ids(self, text: str) -> tuple[int, ...]:
        """A text's own ids, as they follow the prompt."""
        return tuple(self._encode(self._joiner + text))

    def document_ids(self, text: str) -> tuple[int, ...]:
        """One document: prompt, text, eos."""
        return (*self._prompt, *self.text_ids(text), self._eos)

    def list_ids(self, texts: Iterable[str]) -> tuple[int, ...]:
        """A whole list as the expert is trained on it: bos and the documents."""
        return (*self._bos, *(i for text in texts for i in self.document_ids(text)))

    def context(self, texts: Sequence[str], budget: int) -> Context:
        """The documents of `texts` in front of the prompt, in at most `budget` ids.

        A document that does not fit any more is left out whole; if none fits, what is left is
        the bare prompt, without spans.
        """
        room = budget - len(self.prompt_ids())
        documents: list[tuple[int, ...]] = []
        kept: list[int] = []
        for position, text in enumerate(texts):
            document = self.document_ids(text)
            if len(document) <= room:
                room -= len(document)
                documents.append(document if kept else self._bos + document)
                kept.append(position)
        if not kept:
            return Context(self.prompt_ids(), (), ())
        ids = (*(i for document in documents for i in document), *self._prompt)
        return Context(ids, tuple(map(len, documents)), tuple(kept))

    def text_of(self, token_ids: Sequence[int]) -> str:
        """The text that generated ids stand for, without the space that joins it to the prompt."""
        return self._after_prompt(token_ids).removeprefix(self._lead)

    def _after_prompt(self, ids: Sequence[int]) -> str:
        return self._decode((*self._prompt, *ids)).removeprefix(self._head)

    def _leading_space(self) -> str:
        """What decoding puts between prompt and text: some tokenizers add a space of their own."""
        decoded = self._after_prompt(self.text_ids(_PROBE))
        return decoded.removesuffix(_PROBE) if decoded.endswith(_PROBE) else self._joiner

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _decode(self, ids: Sequence[int]) -> str:
        return str(
            self._tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text up to the first stop string, and whether there was one."""
    ends = [at for at in (text.find(mark) for mark in stop if mark) if at >= 0]
    return (text[: min(ends)], True) if ends else (text, False)
