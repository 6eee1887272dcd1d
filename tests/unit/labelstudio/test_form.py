"""The labelling form, and what is written on it."""

from xml.etree import ElementTree as ET

import pytest

from factory.errors import Invalid
from factory.reviews import REASONS, VERDICTS
from workers.labelstudio import form


def choices(name: str) -> list[str | None]:
    tree = ET.fromstring(form.label_config())
    return [choice.get("value") for choice in tree.findall(f".//Choices[@name='{name}']/Choice")]


def test_the_form_offers_every_verdict_and_reason() -> None:
    assert choices("verdict") == list(VERDICTS)
    assert choices("reasons") == list(REASONS)


def test_the_form_passes_its_own_check() -> None:
    form.check(form.label_config())


@pytest.mark.parametrize(
    ("config", "missing"),
    [
        ("<View>", "readable XML"),
        ("<View/>", "<Choices> named 'verdict'"),
        (form.label_config().replace('value="reject"', 'value="no"'), "verdict 'reject'"),
        (form.label_config().replace('name="rewrite"', 'name="words"'), "'rewrite'"),
        (form.label_config().replace('toName="text"', 'toName="picture"'), "on 'text'"),
    ],
)
def test_a_form_that_was_changed_is_refused_with_the_reason(config: str, missing: str) -> None:
    with pytest.raises(Invalid) as error:
        form.check(config)
    assert missing in error.value.detail


def test_a_prediction_answers_a_question_of_the_form() -> None:
    predicted = form.prediction("demo (job 1)", 0.25)
    result = predicted["result"]
    assert isinstance(result, list)
    (answer,) = result
    tree = ET.fromstring(form.label_config())
    question = tree.find(f".//*[@name='{answer['from_name']}'][@toName='{answer['to_name']}']")
    assert question is not None
    assert answer["value"]["choices"][0] in choices(answer["from_name"])
    assert predicted["score"] == 0.25


def test_the_name_and_prompt_of_a_dataset_stay_text() -> None:
    shown = form.instruction("<script>alert(1)</script>", "a & b <img src=x>")
    assert "<script>" not in shown
    assert "<img" not in shown
    assert "a &amp; b" in shown
