"""Two jobs side by side."""

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from factory import datasets, jobs, near_copies, reviews, samples
from factory.db import Database
from factory.spec import GenerateSpec
from factory.tables import ModelPair

from .conftest import Html, Visitor, work_off
from .test_pages import HOSTILE, assert_inert


@pytest.fixture
def left(made: list[uuid.UUID], job: uuid.UUID) -> uuid.UUID:
    """A job of four samples, all made."""
    return job


def made_like(
    db: Database, dataset: str, model: str, texts: list[str], **spec: Any
) -> tuple[uuid.UUID, list[uuid.UUID]]:
    """Another job of the dataset, worked off; with its samples."""
    body = {"dataset": dataset, "model": model, "count": len(texts), "seed": 1, "shard_size": 2}
    asked = GenerateSpec.model_validate({"kind": "generate", **body, **spec})
    with db.transaction() as session:
        pair = session.query(ModelPair).filter_by(name=model).one()
        found = datasets.get(session, dataset)
        job, _ = jobs.submit(session, asked, found, pair, request={})
    return job.id, work_off(db, job.id, texts)


def said(number: int, verdict: str) -> reviews.Verdict:
    now = datetime.now(UTC)
    return reviews.Verdict(7000 + number, 1, verdict, (), None, None, "ada", 2.0, now, now)


def test_settings_figures_and_samples_stand_side_by_side(
    visitor: Visitor,
    db: Database,
    dataset: str,
    model: str,
    left: uuid.UUID,
    made: list[uuid.UUID],
) -> None:
    texts = ["text 0", "words 1", "text 2", "text 3"]
    right, others = made_like(db, dataset, model, texts, guidance={"eta": 0.25})
    with db.transaction() as session:
        for n, sample in enumerate((*made[:3], *others[:3]), start=1):
            reviews.apply(session, sample, said(n, "reject" if n == 1 else "accept"))
        dataset_id = samples.get(session, others[3]).dataset_id
        near_copies.mark(session, dataset_id, [(others[3], made[3], "near-copy of a real one")])
    source = visitor.get(f"/jobs/compare?left={left}&right={right}").text
    page = Html(source)
    assert "1 of " in page.text
    assert "<mark>.5</mark>" in source.replace("0.5", ".5")
    assert "<mark>0.25</mark>" in source
    assert ".67" in page.text  # accepted on the left: two of three
    assert "1.00" in page.text  # and all on the right
    assert ".25" in page.text  # near-copies on the right
    assert "<mark>words</mark>" in source
    assert page.text.count("the same") >= 3
    assert "What came of it" in page.text


def test_jobs_of_different_seeds_are_not_compared_word_by_word(
    visitor: Visitor, db: Database, dataset: str, model: str, left: uuid.UUID
) -> None:
    right, _ = made_like(db, dataset, model, ["a", "b", "c", "d"], seed=2)
    with db.transaction() as session:
        for sample in samples.of_job(session, right, 0, 4).values():
            assert sample.seed is not None
    source = visitor.get(f"/jobs/compare?left={left}&right={right}").text
    assert "different seeds" in source


def test_pairs_come_by_pages(
    visitor: Visitor, db: Database, dataset: str, model: str, left: uuid.UUID
) -> None:
    right, _ = made_like(db, dataset, model, [f"many {n}" for n in range(24)])
    first = visitor.get(f"/jobs/compare?left={left}&right={right}").text
    assert ("many 19" in first, "many 20" in first) == (True, False)
    (following,) = Html(first).links("start=20")
    second = visitor.get(following.split("#")[0]).text
    assert ("many 19" in second, "many 23" in second) == (False, True)
    assert Html(second).links("start=0")


def test_the_other_job_is_chosen_among_the_newest(
    visitor: Visitor, db: Database, dataset: str, model: str, left: uuid.UUID
) -> None:
    right, _ = made_like(db, dataset, model, ["a"])
    page = Html(visitor.get(f"/jobs/compare?left={left}").text)
    assert "Choose the other job" in page.text
    assert ("option", {"value": str(right)}) in page.tags
    assert Html(visitor.get(f"/jobs/{left}").text).links("/jobs/compare")
    assert Html(visitor.get(f"/samples?job={left}").text).links("/jobs/compare")


@pytest.mark.parametrize("given", ["nothing", str(uuid.UUID(int=3))])
def test_what_cannot_be_compared_is_said(visitor: Visitor, left: uuid.UUID, given: str) -> None:
    assert visitor.get(f"/jobs/compare?left={left}&right={given}").status_code == 404


def test_hostile_texts_and_settings_do_nothing(
    visitor: Visitor, db: Database, dataset: str, model: str
) -> None:
    left, _ = made_like(db, dataset, model, list(HOSTILE), prompt=" ".join(HOSTILE))
    sampling = {"stop": list(HOSTILE[:4])}
    right, _ = made_like(db, dataset, model, list(HOSTILE[::-1]), sampling=sampling)
    page = assert_inert(visitor.get(f"/jobs/compare?left={left}&right={right}").text)
    assert HOSTILE[0] in page.text
