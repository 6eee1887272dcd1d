"""Gates: each refuses what it must, with a reason, and nothing else."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from factory.feedback import Feedback, Gates
from factory.texts import runs
from workers.levers.gates import Gatekeeper
from workers.levers.keywords import fit_keywords, keyword_in

OPEN = {"copies": None}


def keeper(**settings: object) -> Gatekeeper:
    return Gatekeeper(Gates.model_validate({**OPEN, **settings}))


def test_no_gate_refuses_nothing() -> None:
    gate = keeper()
    assert [gate.reason(text) for text in ("a", "a", "", "x" * 9000)] == [None] * 4


def test_a_text_with_most_runs_of_another_is_a_near_copy() -> None:
    gate = keeper(copies=0.8)
    gate.add("real", "one two three four five six seven")  # five runs of three words
    same_but_last = "One two three, four five six seven"
    assert gate.reason("one two three four five six eight") == (
        "near-copy of a real sample: has 80% of its runs of three words"
    )
    assert gate.reason("one two three four five nine eight") is None
    assert gate.reason(same_but_last) is None  # the comma cuts three runs of six
    assert gate.reason("seven six five four three two one") is None


def test_runs_of_several_texts_do_not_add_up() -> None:
    gate = keeper(copies=0.8)
    gate.add("real", "a b c d x y")
    gate.add("real", "p q c d e f")
    assert gate.reason("a b c d e f") is None


def test_what_passed_is_what_the_next_is_compared_with() -> None:
    gate = keeper(copies=1.0)
    assert gate.reason("red green blue") is None
    assert str(gate.reason("red green blue")).startswith("near-copy of an earlier sample")
    only_real = keeper(copies=1.0, against=["real"])
    assert [only_real.reason("red green blue") for _ in range(2)] == [None, None]


def test_a_text_that_was_refused_is_no_example() -> None:
    gate = keeper(copies=1.0, min_characters=20)
    assert gate.reason("red green blue") == "shorter than 20 characters"
    other = keeper(copies=1.0)
    assert other.reason("red green blue") is None


def test_nearness_is_the_cosine_of_embeddings() -> None:
    gate = keeper(nearness=0.9)
    gate.add("corrected", "x", [1.0, 0.0])
    near, far = [0.95, (1 - 0.95**2) ** 0.5], [0.8, 0.6]
    assert gate.reason("anything", near) == "near-copy of a rewrite: cosine 0.95"
    assert gate.reason("x", far) is None
    assert gate.reason("y", far) == "near-copy of an earlier sample: cosine 1.00"


@pytest.mark.parametrize(
    ("settings", "passes", "refused"),
    [
        ({"min_characters": 3}, "abc", {"ab": "shorter than 3 characters"}),
        ({"max_characters": 3}, "abc", {"abcd": "longer than 3 characters"}),
        ({"pattern": "[a-c]+"}, "abc", {"abcx": "does not match the pattern"}),
        (
            {"json_schema": {"type": "object", "required": ["q"]}},
            '{"q": 1}',
            {"{": "is not JSON", "{}": "against the JSON schema: $ 'q' is a required property"},
        ),
    ],
)
def test_validators(settings: dict[str, object], passes: str, refused: dict[str, str]) -> None:
    gate = keeper(**settings)
    assert gate.reason(passes) is None
    assert {text: gate.reason(text) for text in refused} == refused


@given(st.lists(st.text("abc ", min_size=1), max_size=8))
def test_whatever_the_texts_only_repeats_are_refused(texts: list[str]) -> None:
    """At a share of 1 with all runs different: a refused text has all its runs in one before."""
    gate, kept = keeper(copies=1.0), []
    for text in texts:
        if gate.reason(text) is None:
            kept.append(text)
        else:
            assert any(runs(text) <= runs(one) for one in kept)
    for i, text in enumerate(kept):
        assert not any(runs(text) <= runs(one) for one in kept[:i])


def test_keywords_are_words_of_refused_texts_alone() -> None:
    bad = [f"the zinc report number {i}" for i in range(12)]
    good = [f"the tidy report number {i}" for i in range(40)]
    texts, accepted = [*bad, *good], [False] * 12 + [True] * 40
    found = fit_keywords(texts, accepted, [["off_topic"]] * 12 + [[]] * 40)
    assert [(keyword.word, keyword.reason, keyword.seen) for keyword in found] == [
        ("zinc", "off_topic", 12)
    ]
    assert keyword_in("A ZINC mine", found) == "has the word 'zinc' (off_topic)"
    assert keyword_in("a zincky mine", found) is None


@pytest.mark.parametrize("reasons", [[], ["incoherent"], ["duplicate"]])
def test_reasons_that_words_cannot_stand_for_make_no_keyword(reasons: list[str]) -> None:
    texts = [f"zinc {i}" for i in range(12)] + [f"tidy {i}" for i in range(40)]
    accepted = [False] * 12 + [True] * 40
    assert fit_keywords(texts, accepted, [reasons] * 52) == []


def test_keywords_are_not_found_in_noise() -> None:
    """Verdicts that have nothing to do with words give no keyword, but for the share CHANCE."""
    random, wrong = np.random.default_rng(0), 0
    vocabulary = [f"w{i}" for i in range(60)]
    for _ in range(100):
        texts = [" ".join(random.choice(vocabulary, 8)) for _ in range(60)]
        accepted = [bool(x) for x in random.random(60) < 0.6]
        wrong += bool(fit_keywords(texts, accepted, [["other"]] * 60))
    assert wrong <= 10


@pytest.mark.parametrize(
    ("setting", "where"),
    [
        ({"levers": {"gate": {}}}, "levers"),
        ({"levers": {"gates": {"pattern": "["}}}, "is no regular expression"),
        ({"levers": {"gates": {"json_schema": {"type": 3}}}}, "is no JSON schema"),
        ({"levers": {"verdict_head": {"cap": 0}}}, "cap"),
        ({"levers": {"adapters": {"steps": 0}}}, "steps"),
        ({"levers": {"filter": {"keep": 1}}}, "keep"),
        ({"window": {"rounds": 0}}, "rounds"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(setting: dict[str, object], where: str) -> None:
    with pytest.raises(ValidationError, match=where):
        Feedback.model_validate(setting)


def test_a_setting_survives_json() -> None:
    setting = {
        "levers": {
            "gates": {"json_schema": {"type": "object"}, "against": ["real"]},
            "negatives": {"weight": 0.5, "center": False},
            "verdict_head": {},
            "adapters": {"weight": 2.0},
            "filter": {"keep": 0.25},
        },
        "window": {"rounds": 3},
    }
    first = Feedback.model_validate(setting)
    again = Feedback.model_validate(json.loads(first.model_dump_json()))
    assert again == first
    assert first.levers.names == ["gates", "negatives", "verdict_head", "adapters", "filter"]
    assert Feedback().levers.names == ["negatives"]
    assert Feedback.model_validate({"levers": {}}).levers.names == []
