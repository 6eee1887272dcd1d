"""From annotations to verdicts."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from workers.labelstudio.verdicts import parse


def annotation(*result: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "id": 7,
        "task": 3,
        "result": list(result),
        "was_cancelled": False,
        "completed_by": 2,
        "created_username": "Ann Lee ann@example.org, 2",
        "created_at": "2026-01-02T03:04:05.678901Z",
        "updated_at": "2026-01-02T03:05:00Z",
        "lead_time": 12.5,
        **changes,
    }


def answer(name: str, **value: Any) -> dict[str, Any]:
    return {"from_name": name, "to_name": "text", "type": "any", "value": value}


ACCEPT = answer("verdict", choices=["accept"])
REJECT = answer("verdict", choices=["reject"])
FIX = answer("verdict", choices=["fix"])


def test_an_accepted_text() -> None:
    verdict = parse(annotation(ACCEPT))
    assert verdict is not None
    assert (verdict.annotation_id, verdict.task_id, verdict.verdict) == (7, 3, "accept")
    assert verdict.reviewer == "Ann Lee ann@example.org"
    assert verdict.lead_seconds == 12.5
    assert verdict.updated_at == datetime(2026, 1, 2, 3, 5, tzinfo=UTC)


def test_several_answers_belong_together() -> None:
    reasons = answer("reasons", choices=["unsafe", "incoherent"])
    verdict = parse(annotation(reasons, answer("rating", rating=2), REJECT))
    assert verdict is not None
    assert verdict.verdict == "reject"
    assert verdict.reasons == ("incoherent", "unsafe")
    assert verdict.rating == 2


def test_a_reason_of_a_changed_form_counts_as_other() -> None:
    verdict = parse(annotation(REJECT, answer("reasons", choices=["boring"])))
    assert verdict is not None
    assert verdict.reasons == ("other",)


def test_reasons_count_for_a_rejection_only() -> None:
    verdict = parse(annotation(ACCEPT, answer("reasons", choices=["unsafe"])))
    assert verdict is not None
    assert verdict.reasons == ()


def test_a_rewrite_is_a_list_of_lines() -> None:
    verdict = parse(annotation(FIX, answer("rewrite", text=["  one", "two "])))
    assert verdict is not None
    assert verdict.rewrite == "one\ntwo"


def test_a_bare_rewrite_and_one_that_no_database_can_hold() -> None:
    verdict = parse(annotation(FIX, answer("rewrite", text="one\x00 two\ud800")))
    assert verdict is not None
    assert verdict.rewrite == "one two?"


def test_a_fix_without_words_has_no_rewrite() -> None:
    verdict = parse(annotation(FIX, answer("rewrite", text=[" "])))
    assert verdict is not None
    assert verdict.rewrite is None


def test_a_rewrite_counts_for_a_fix_only() -> None:
    verdict = parse(annotation(ACCEPT, answer("rewrite", text=["other"])))
    assert verdict is not None
    assert verdict.rewrite is None


def test_a_skipped_text_has_no_verdict() -> None:
    assert parse(annotation(was_cancelled=True)) is None
    assert parse(annotation(REJECT, was_cancelled=True)) is None


def test_what_is_not_our_question_is_no_verdict() -> None:
    assert parse(annotation(answer("sentiment", choices=["reject"]))) is None
    assert parse(annotation({**REJECT, "to_name": "image"})) is None
    assert parse(annotation(answer("verdict", choices=["maybe"]))) is None
    assert parse(annotation(answer("verdict", choices=["accept", "reject"]))) is None
    assert parse(annotation()) is None


def test_a_rating_outside_the_form_is_left_out() -> None:
    for rating in (0, 6, "5", None, True):
        verdict = parse(annotation(ACCEPT, answer("rating", rating=rating)))
        assert verdict is not None
        assert verdict.rating is None


def test_a_reviewer_without_a_name_is_known_by_number() -> None:
    verdict = parse(annotation(ACCEPT, created_username=None))
    assert verdict is not None
    assert verdict.reviewer == "user 2"


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(json)
def test_a_result_of_any_shape_is_read_without_error(result: Any) -> None:
    assert parse(annotation(result=result)) is None
