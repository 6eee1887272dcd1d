"""Texts to contexts and back, under tokenizers of several kinds."""

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from factory.errors import ModelError, PromptError
from factory.local.demo import grammar
from workers.layout import Context, Layout, cut_at_stop
from workers.training.tokenizer import word_tokenizer

WORDS = word_tokenizer(grammar.vocabulary(), 256)
TEXTS = [grammar.sample(Random(seed)) for seed in range(4)]


def byte_level(**special: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE like GPT-2's: lossless for any text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"]
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """A BPE with Metaspace like Llama 2's: decoding drops the first space."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"])
    tokenizer.train_from_iterator([*TEXTS, grammar.PROMPT], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


BYTES = byte_level(bos_token="<s>", eos_token="</s>")
EVERY = {"words": WORDS, "bytes": BYTES, "sentencepiece": sentencepiece_like()}


@pytest.fixture(params=EVERY)
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return EVERY[request.param]


@pytest.mark.parametrize("prompt", ["Hypothesis:", "Hypothesis: ", ""])
def test_texts_come_back_exactly(tokenizer: PreTrainedTokenizerBase, prompt: str) -> None:
    lists = Layout(tokenizer, prompt)
    for text in TEXTS:
        assert lists.text_of(lists.text_ids(text)) == text


def test_a_prompt_may_end_a_line() -> None:
    for name in ("bytes", "sentencepiece"):
        lists = Layout(EVERY[name], "so:\n")
        assert [lists.text_of(lists.text_ids(text)) for text in TEXTS] == TEXTS


@given(st.text(max_size=40), st.sampled_from(["Hypothesis:", "Q:\n", ""]))
def test_a_lossless_tokenizer_loses_nothing(text: str, prompt: str) -> None:
    lists = Layout(BYTES, prompt)
    assert lists.text_of(lists.text_ids(text)) == text


def test_a_context_is_bos_documents_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    lists = Layout(tokenizer, grammar.PROMPT)
    context = lists.context(TEXTS[:3], budget=1000)
    bos, prompt = lists.prompt_ids()[:1], lists.prompt_ids()[1:]
    first, second, third = (lists.document_ids(text) for text in TEXTS[:3])
    assert bos == (tokenizer.bos_token_id,)
    assert first == (*prompt, *lists.text_ids(TEXTS[0]), tokenizer.eos_token_id)
    assert context.ids == (*bos, *first, *second, *third, *prompt)
    assert context.spans == (1 + len(first), len(second), len(third))
    assert context.kept == (0, 1, 2)


def test_a_context_is_the_head_of_what_the_expert_is_trained_on(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    lists = Layout(tokenizer, grammar.PROMPT)
    context = lists.context(TEXTS[:2], budget=1000)
    assert lists.list_ids(TEXTS[:3])[: len(context.ids)] == context.ids


def test_documents_that_do_not_fit_are_left_out_whole() -> None:
    lists = Layout(WORDS, grammar.PROMPT)
    long, short = " ".join(TEXTS), TEXTS[0]
    budget = len(lists.context([short, short], budget=1000).ids)
    context = lists.context([short, long, short, short], budget)
    assert context == replace(lists.context([short, short], budget), kept=(0, 2))
    assert lists.context([short, short], budget - 1) == lists.context([short], budget)


@pytest.mark.parametrize("texts", [[], TEXTS])
def test_without_documents_the_bare_prompt_is_left(texts: list[str]) -> None:
    lists = Layout(WORDS, grammar.PROMPT)
    assert lists.context(texts, budget=5) == Context(lists.prompt_ids(), (), ())


def test_without_bos_a_prompt_is_needed() -> None:
    tokenizer = byte_level(eos_token="</s>")
    assert Layout(tokenizer, "Q:").prompt_ids() == tuple(tokenizer.encode("Q:"))
    with pytest.raises(PromptError, match="give the dataset a prompt"):
        Layout(tokenizer, "")


def test_without_eos_a_tokenizer_is_refused() -> None:
    with pytest.raises(ModelError, match="no eos token"):
        Layout(byte_level(bos_token="<s>"), "Q:")


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        ((), ("one\ntwo. three", False)),
        (("\n",), ("one", True)),
        (("three", ". "), ("one\ntwo", True)),
        (("four",), ("one\ntwo. three", False)),
    ],
)
def test_a_text_ends_at_its_first_stop(stop: tuple[str, ...], expected: tuple[str, bool]) -> None:
    assert cut_at_stop("one\ntwo. three", stop) == expected
