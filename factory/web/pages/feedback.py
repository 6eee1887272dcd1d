"""What verdicts do to a dataset's new jobs: its levers, how the last fits went, and a choice."""

from collections.abc import Mapping
from dataclasses import dataclass

from flask import flash, redirect, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from factory import datasets, levers
from factory.errors import FieldError, Invalid
from factory.feedback import RECOMMENDED, Feedback, LeverName, Levers
from factory.tables import Dataset, FittedLever
from factory.web.pages.frame import pages
from factory.web.pages.words import number
from factory.web.state import current

CHOICES: Mapping[str, tuple[Levers, str, str]] = {  # name → (levers, what is set, what to press)
    "recommended": (RECOMMENDED, "recommended", "Use what is recommended"),
    "negatives": (Feedback().levers, "negatives alone", "Use negatives alone"),
    "none": (Levers(), "nothing", "Let them do nothing"),
}
OWN = "set by hand"
TITLES: Mapping[LeverName, tuple[str, str]] = {
    "gates": ("Gates", "Near-copies, and what breaks a rule, are filtered out."),
    "negatives": ("Negatives", "Rejected samples stand before the text, as what to avoid."),
    "verdict_head": ("Verdict head", "Every token is weighed by what was learned from verdicts."),
    "adapters": (
        "Adapters",
        "Tokens that tuning on accepted texts favours over tuning on rejected ones gain.",
    ),
    "filter": ("Filter", "Texts that rank like rejected ones are filtered out."),
}


@dataclass(frozen=True)
class Line:
    """One lever: what it does, how its last fit went, if it has one, and why it does not act."""

    title: str
    does: str
    fit: str | None
    idle: str | None


@dataclass(frozen=True)
class Choice:
    """A button."""

    value: str
    label: str


@dataclass(frozen=True)
class Panel:
    """What the page shows. is_set: the choice as it is now; others: those to press instead."""

    lines: list[Line]
    is_set: str
    others: list[Choice]
    backed_off: str | None


def panel(session: Session, dataset: Dataset) -> Panel:
    """The panel of one dataset."""
    state = levers.state(session, dataset)
    used = Feedback.model_validate(dataset.feedback).levers
    fits = {fit.name: fit for fit in state["fitted"]}
    lines = [_line(used, name, fits) for name in used.names]
    said = next((said for set_, said, _ in CHOICES.values() if set_ == used), OWN)
    others = [Choice(key, press) for key, (set_, _, press) in CHOICES.items() if set_ != used]
    return Panel(lines, said, others, state["backed_off"])


@pages.post("/datasets/<name>/feedback")
def set_feedback(name: str) -> ResponseReturnValue:
    """Choose the levers of later jobs; the window stays as it is."""
    with_ = request.form.get("levers", "")
    if with_ not in CHOICES:
        wrong = FieldError("levers", f"is one of {', '.join(CHOICES)}")
        raise Invalid("There is no such choice of levers.", [wrong])
    with current().db.transaction() as session:
        dataset = datasets.get(session, name)
        before = Feedback.model_validate(dataset.feedback)
        datasets.set_feedback(dataset, before.model_copy(update={"levers": CHOICES[with_][0]}))
    flash("Jobs submitted from now on follow verdicts so.", "good")
    return redirect(url_for("pages.dataset", name=name), 303)


def _line(used: Levers, name: LeverName, fits: Mapping[str, FittedLever]) -> Line:
    least = used.negatives.told_apart if used.negatives and name == "negatives" else None
    fit = fits.get(name if least is None else "filter")
    if fit is None:
        return Line(*TITLES[name], None, None)
    auroc = (fit.result or {}).get("auroc")
    said = f"Fitted on {number(fit.verdicts)} verdicts, {number(fit.rejected)} of them rejections"
    said += "" if auroc is None else f"; AUROC {auroc:.2f} on held-out texts"
    if least is None:
        return Line(*TITLES[name], said, None if fit.digest else fit.note)
    why = f"{least:.2f} is asked, so that only words that tell texts apart are steered away from"
    rests = used.negatives is not None and used.negatives.rests(auroc)
    return Line(*TITLES[name], said, why if rests else None)
