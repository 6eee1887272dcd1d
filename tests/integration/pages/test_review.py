"""The review page: what feedback changed, what is steered away from, the way to each task."""

import uuid
from datetime import UTC, datetime

import pytest

from factory import datasets, negatives, pushes, reviews
from factory.db import Database

from .conftest import Html, Visitor


@pytest.fixture
def judged(db: Database, dataset: str, made: list[uuid.UUID]) -> list[uuid.UUID]:
    """Four samples in Label Studio: one rejected by two people, one accepted, two that wait."""
    with db.transaction() as session:
        found = datasets.get(session, dataset)
        found.label_studio_project = 5
        pushes.mark_pushed(session, 5, {id_: 100 + n for n, id_ in enumerate(made)})
        number = int(made[0].int % 10**6)
        said = [
            (0, "reject", "ada"),
            (0, "accept", "bob"),
            (0, "reject", "bob"),
            (1, "accept", "ada"),
        ]
        for n, (at, verdict, who) in enumerate(said):
            now = datetime.now(UTC)
            reasons = ("off_topic",) if verdict == "reject" else ()
            given = reviews.Verdict(
                number + n, 100 + at, verdict, reasons, None, None, who, 2.0, now, now
            )
            reviews.apply(session, made[at], given)
    return made


def mark(visitor: Visitor, sample: uuid.UUID, kind: str, page: str = "review") -> str:
    answer = visitor.post(f"/samples/{sample}/mark", {"kind": kind, "page": page})
    assert answer.status_code == 303
    return answer.location


def test_each_verdict_and_each_waiting_sample_leads_to_its_task(
    visitor: Visitor, dataset: str, judged: list[uuid.UUID]
) -> None:
    page = Html(visitor.get(f"/review?dataset={dataset}").text)
    tasks = {link.rsplit("=", 1)[1] for link in page.links("/projects/5/data?task=")}
    assert tasks == {"100", "101", "102", "103"}


def test_agreement_reviewers_and_reasons_are_told(
    visitor: Visitor, dataset: str, judged: list[uuid.UUID]
) -> None:
    text = Html(visitor.get(f"/review?dataset={dataset}").text).text
    assert "1 samples were judged by two or more" in text
    assert "ada and bob: the same on 1 of 1" in text
    assert "off topic" in text
    assert "too few verdicts on both sides" in text


def test_a_negative_is_pinned_retired_and_used_again(
    visitor: Visitor, db: Database, dataset: str, judged: list[uuid.UUID]
) -> None:
    rejected = judged[0]
    assert mark(visitor, rejected, "pinned").startswith(f"/review?dataset={dataset}")
    shown = Html(visitor.get(f"/review?dataset={dataset}").text).text
    assert "Pinned: every further sample is steered away from it." in shown
    mark(visitor, rejected, "retired")
    page = visitor.get(f"/review?dataset={dataset}").text
    assert "1 retired" in page
    with db.transaction() as session:
        assert negatives.marks(session, judged) == {rejected: "retired"}
    assert mark(visitor, rejected, "none", "sample") == f"/samples/{rejected}"
    with db.transaction() as session:
        assert negatives.marks(session, judged) == {}


def test_too_many_pins_are_refused_in_words(
    visitor: Visitor, db: Database, dataset: str, judged: list[uuid.UUID]
) -> None:
    with db.transaction() as session:
        found = datasets.get(session, dataset)
        lines = [b'{"text": "real %d"}' % n for n in range(negatives.PINS)]
        datasets.import_lines(session, found, lines)
    page = Html(visitor.get(f"/samples?dataset={dataset}&origin=real").text)
    for link in set(page.links("/samples/0")):
        mark(visitor, uuid.UUID(link.rsplit("/", 1)[1]), "pinned")
    refused = visitor.post(f"/samples/{judged[0]}/mark", {"kind": "pinned"})
    assert refused.status_code == 409
    assert "Unpin one first" in refused.text
    assert visitor.post(f"/samples/{judged[0]}/mark", {"kind": "x"}).status_code == 422
