"""A word-level tokenizer whose ids decode to the exact text."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
_SPACE = "▁"  # a word carries the space in front of it, so decoding needs no rules


def word_tokenizer(words: Iterable[str], context: int) -> PreTrainedTokenizerFast:
    """One id a word or punctuation mark, with and without a space before it.

    Text made of `words` with single spaces round-trips exactly; others become `<unk>`.
    `context` is the longest input in tokens.
    """
    forms = [form for word in words for form in ((word,) if _is_mark(word) else (_SPACE + word,))]
    vocabulary = {token: i for i, token in enumerate((PAD, BOS, EOS, UNKNOWN, *forms))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always"),
            pre_tokenizers.Punctuation(behavior="isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="always")
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )


def _is_mark(word: str) -> bool:
    return not word[0].isalnum()
