"""Verdicts come back: by webhook, and by reconciling where an event was missed."""

from typing import Any

import pytest

from factory import outbox
from workers.labelstudio import refresh

from .conftest import Factory, Made, answer, said


@pytest.fixture
def made(factory: Factory) -> Made:
    made = factory.make("one", "two", "three", "four")
    made.push()
    return made


@pytest.fixture
def api(factory: Factory) -> Any:
    """Label Studio's API, as a reviewer's browser uses it."""
    return factory.client._api.annotations


def test_accept_reject_and_fix_come_back_by_webhook(factory: Factory, made: Made, api: Any) -> None:
    before = factory.events()
    api.create(made.task(0), result=said("accept", answer("rating", "rating", rating=4)))
    api.create(made.task(1), result=said("reject", answer("reasons", choices=["off_topic"])))
    api.create(made.task(2), result=said("fix", answer("rewrite", "textarea", text=["Better."])))
    assert factory.events() == before + 3

    factory.handle_events()
    assert made.states() == ["accepted", "rejected", "fixed", "in_review"]
    assert made.reviews(0)[0].rating == 4
    assert made.reviews(1)[0].reasons == ["off_topic"]
    assert made.reviews(2)[0].rewrite == "Better."
    assert made.corrections(2) == [("Better.", "accepted")]
    assert made.owed(outbox.EMBED)


def test_a_changed_verdict_replaces_the_old_one(factory: Factory, made: Made, api: Any) -> None:
    saved = api.create(made.task(0), result=said("reject"))
    factory.handle_events()
    assert made.states()[0] == "rejected"

    api.update(saved.id, result=said("fix", answer("rewrite", "textarea", text=["A."])))
    factory.handle_events()
    assert made.states()[0] == "fixed"
    assert made.corrections(0) == [("A.", "accepted")]

    api.update(saved.id, result=said("accept"))
    factory.handle_events()
    assert made.states()[0] == "accepted"
    assert made.corrections(0) == [("A.", "filtered")]
    assert len(made.reviews(0)) == 1


def test_a_deleted_annotation_no_longer_counts(factory: Factory, made: Made, api: Any) -> None:
    saved = api.create(made.task(0), result=said("reject"))
    factory.handle_events()
    api.delete(saved.id)
    factory.handle_events()
    assert made.states()[0] == "in_review"
    assert made.reviews(0) == []


def test_skipping_is_no_verdict(factory: Factory, made: Made, api: Any) -> None:
    api.create(made.task(0), result=[], was_cancelled=True)
    factory.handle_events()
    assert made.states()[0] == "in_review"

    api.create(made.task(1), result=said("reject"))
    saved = api.create(made.task(1), result=said("accept"))
    api.update(saved.id, result=[], was_cancelled=True)
    factory.handle_events()
    assert made.states()[1] == "rejected"


def test_many_events_are_handled_at_once(
    factory: Factory, made: Made, api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(4):
        api.create(made.task(i), result=said("accept"))
    batches: list[int] = []
    real = refresh.refresh

    def counted(*arguments: Any) -> int:
        batches.append(len(arguments[3]))
        return real(*arguments)

    monkeypatch.setattr(refresh, "refresh", counted)
    factory.handle_events()
    assert batches == [4]
    assert made.states() == ["accepted"] * 4


def test_reconciling_repairs_what_no_event_told(factory: Factory, made: Made, api: Any) -> None:
    (hook,) = factory.client.webhooks(made.project)
    factory.client.update_webhook(hook["id"], url=hook["url"], is_active=False)
    kept = api.create(made.task(0), result=said("accept"))
    lost = api.create(made.task(1), result=said("reject"))
    made.reconcile()
    assert made.states() == ["accepted", "rejected", "in_review", "in_review"]

    (hook,) = factory.client.webhooks(made.project)
    assert hook["is_active"]
    factory.client.update_webhook(hook["id"], url=hook["url"], is_active=False)
    api.update(kept.id, result=said("reject"))
    api.delete(lost.id)
    api.create(made.task(2), result=said("fix"))
    made.reconcile()
    assert made.states() == ["rejected", "in_review", "fixed", "in_review"]
    assert not made.owed(outbox.RECONCILE)


def test_a_task_deleted_in_label_studio_takes_its_review_along(
    factory: Factory, made: Made, api: Any
) -> None:
    api.create(made.task(0), result=said("reject"))
    factory.handle_events()
    factory.client._api.tasks.delete(str(made.task(0)))
    factory.handle_events()
    assert made.states()[0] == "in_review"
    assert made.push_error(0) == "The task was deleted in Label Studio."

    (hook,) = factory.client.webhooks(made.project)
    factory.client.update_webhook(hook["id"], url=hook["url"], is_active=False)
    api.create(made.task(1), result=said("accept"))
    made.reconcile()
    factory.client.update_webhook(hook["id"], url=hook["url"], is_active=False)
    factory.client._api.tasks.delete(str(made.task(1)))
    made.reconcile()
    assert made.states()[1] == "in_review"
    assert made.push_error(1) == "The task was deleted in Label Studio."


def test_a_project_that_is_gone_takes_no_verdict_along(
    factory: Factory, made: Made, api: Any
) -> None:
    """An emptied or wrong Label Studio must not wipe out what people have said."""
    api.create(made.task(0), result=said("reject"))
    factory.handle_events()
    factory.client._api.projects.delete(made.project)
    made.reconcile()
    assert made.states()[0] == "rejected"


def test_a_task_that_is_not_ours_is_passed_over(factory: Factory, made: Made, api: Any) -> None:
    foreign = {"data": {"text": "someone else's", "sample_id": str(made.job)}}
    factory.client.import_tasks(made.project, [foreign])
    task = max(task["id"] for task in made.tasks())
    api.create(task, result=said("reject"))
    api.create(made.task(0), result=said("accept"))
    factory.handle_events()
    made.reconcile()
    assert made.states() == ["accepted", "in_review", "in_review", "in_review"]
