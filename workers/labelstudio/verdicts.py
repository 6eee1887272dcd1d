"""From an annotation, as Label Studio gives it, to a verdict. Pure functions."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from factory.reviews import REASONS, VERDICTS, Verdict
from workers.labelstudio.form import MAX_RATING, RATING, REASONS_FIELD, REWRITE, TEXT, VERDICT

Annotation = Mapping[str, Any]


def parse(annotation: Annotation) -> Verdict | None:
    """The verdict of an annotation; None when it has none (skipped, empty, not our form).

    The last answer to each question counts. A rewrite is kept for `fix` only, where it says
    something; reasons for `reject` only.
    """
    answers = dict(_answers(annotation.get("result")))
    verdict = _choice(answers.get(VERDICT))
    if annotation.get("was_cancelled") or verdict is None:
        return None
    return Verdict(
        annotation_id=int(annotation["id"]),
        task_id=int(annotation["task"]),
        verdict=verdict,
        reasons=_reasons(answers.get(REASONS_FIELD)) if verdict == "reject" else (),
        rewrite=_rewrite(answers.get(REWRITE)) if verdict == "fix" else None,
        rating=_rating(answers.get(RATING)),
        reviewer=_reviewer(annotation),
        lead_seconds=annotation.get("lead_time"),
        created_at=_time(annotation["created_at"]),
        updated_at=_time(annotation["updated_at"]),
    )


def _answers(result: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(question, value) of each answer that is about our text."""
    for item in result if isinstance(result, list) else ():
        if isinstance(item, Mapping) and item.get("to_name") == TEXT:
            value = item.get("value")
            if isinstance(value, Mapping):
                yield str(item.get("from_name")), value


def _choice(value: Mapping[str, Any] | None) -> str | None:
    chosen = _strings(value, "choices")
    return chosen[0] if len(chosen) == 1 and chosen[0] in VERDICTS else None


def _reasons(value: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Known reasons in the order of the form; another one counts as `other`."""
    given = {r if r in REASONS else "other" for r in _strings(value, "choices")}
    return tuple(reason for reason in REASONS if reason in given)


def _rewrite(value: Mapping[str, Any] | None) -> str | None:
    """Lines of text, in what Postgres can hold: no NUL, no half of a surrogate pair."""
    lines = "\n".join(_strings(value, "text")).replace("\x00", "")
    return lines.encode(errors="replace").decode().strip() or None


def _rating(value: Mapping[str, Any] | None) -> int | None:
    rating = value.get("rating") if value else None
    return rating if type(rating) is int and 1 <= rating <= MAX_RATING else None


def _strings(value: Mapping[str, Any] | None, key: str) -> list[str]:
    """A list of strings; Label Studio sometimes gives a single one bare."""
    found = value.get(key) if value else None
    listed = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    return [item for item in listed if isinstance(item, str)]


def _reviewer(annotation: Annotation) -> str:
    """`First Last email`, as Label Studio writes it before the comma and the user's id."""
    name = str(annotation.get("created_username") or "").rpartition(",")[0].strip()
    return name or f"user {annotation.get('completed_by')}"


def _time(value: str | datetime) -> datetime:
    return value if isinstance(value, datetime) else datetime.fromisoformat(value)
