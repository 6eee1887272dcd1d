"""The labelling form: what a reviewer sees and answers, as Label Studio's XML.

Built as a tree and never from anyone's text, so that no name of ours or theirs can change it.
What is shown comes from the task's data (`$text`).
"""

import html
from collections.abc import Mapping
from xml.etree import ElementTree as ET

from factory.errors import Invalid
from factory.reviews import REASONS, VERDICTS

TEXT, VERDICT, REASONS_FIELD, REWRITE, RATING = "text", "verdict", "reasons", "rewrite", "rating"
CONTROLS: Mapping[str, str] = {
    VERDICT: "Choices",
    REASONS_FIELD: "Choices",
    REWRITE: "TextArea",
    RATING: "Rating",
}
HOTKEYS = {"accept": "a", "reject": "r", "fix": "f"}
MAX_RATING = 5

INSTRUCTION = """
<p><b>Accept</b> a text that belongs in this data set as it is. <b>Reject</b> one that does not,
and say why: the next texts are steered away from it. <b>Fix</b> one that would belong with a
change, and write it as it should be.</p>
<p><b>Skip</b> when you cannot tell: a skipped text is not a rejected one.</p>
"""


def label_config() -> str:
    """The form as XML."""
    view = ET.Element("View")
    ET.SubElement(view, "Text", name=TEXT, value="$text")
    _choices(view, VERDICT, VERDICTS, choice="single", required="true", showInline="true")
    _header(view, "Why not?", "reject")
    _choices(view, REASONS_FIELD, REASONS, choice="multiple", **_shown_on("reject"))
    _header(view, "As it should be", "fix")
    rewrite = {"value": "$text", "editable": "true", "maxSubmissions": "1", "rows": "4"}
    named = {"name": REWRITE, "toName": TEXT}
    ET.SubElement(view, "TextArea", {**named, **rewrite, **_shown_on("fix")})
    ET.SubElement(view, "Rating", name=RATING, toName=TEXT, maxRating=str(MAX_RATING))
    return ET.tostring(view, encoding="unicode")


def instruction(dataset: str, prompt: str) -> str:
    """What reviewers read before they begin (HTML)."""
    about = f"<p>Data set: <b>{html.escape(dataset)}</b></p><p>{html.escape(prompt)}</p>"
    return about + INSTRUCTION


def check(config: str) -> None:
    """Raise Invalid unless a project's form can still be read and filled by us."""
    if missing := _missing(config):
        raise Invalid(
            f"The labelling form of the Label Studio project has no {missing}. "
            "Put it back (Settings → Labeling Interface), or delete the project: "
            "it is then made anew."
        )


def prediction(model_version: str, score: float | None) -> dict[str, object]:
    """What the model says by having made the text, with its mean confidence.

    score   mean probability of the text's tokens under the expert, in [0, 1]
    """
    result = {
        "from_name": VERDICT,
        "to_name": TEXT,
        "type": "choices",
        "value": {"choices": ["accept"]},
    }
    return {"model_version": model_version, "score": score, "result": [result]}


def _missing(config: str) -> str | None:
    try:
        root = ET.fromstring(config)
    except ET.ParseError:
        return "readable XML"
    for name, tag in CONTROLS.items():
        if root.find(f".//{tag}[@name='{name}'][@toName='{TEXT}']") is None:
            return f"<{tag}> named '{name}' on '{TEXT}'"
    offered = {c.get("value") for c in root.findall(f".//Choices[@name='{VERDICT}']/Choice")}
    absent = [verdict for verdict in VERDICTS if verdict not in offered]
    return f"verdict '{absent[0]}'" if absent else None


def _choices(view: ET.Element, name: str, values: tuple[str, ...], **attributes: str) -> None:
    choices = ET.SubElement(view, "Choices", {"name": name, "toName": TEXT, **attributes})
    for value in values:
        hotkey = {"hotkey": HOTKEYS[value]} if value in HOTKEYS else {}
        ET.SubElement(choices, "Choice", {"value": value, **hotkey})


def _header(view: ET.Element, title: str, verdict: str) -> None:
    shown = ET.SubElement(view, "View", _shown_on(verdict))
    ET.SubElement(shown, "Header", value=title, size="5")


def _shown_on(verdict: str) -> dict[str, str]:
    return {
        "visibleWhen": "choice-selected",
        "whenTagName": VERDICT,
        "whenChoiceValue": verdict,
    }
