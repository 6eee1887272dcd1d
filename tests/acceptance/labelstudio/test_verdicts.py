"""Verdicts come back: by webhook, and by reconciling where an event was missed."""

from datetime import UTC, datetime
from typing import Any

import pytest

from factory import outbox
from workers.labelstudio import reconcile, refresh
from workers.labelstudio.client import Client

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


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every listing of tasks by reconciling: `all`, or since when."""
    seen: list[str] = []
    real_all, real_changed = Client.all_tasks, Client.changed_tasks

    def all_tasks(self: Client, project_id: int) -> Any:
        seen.append("all")
        return real_all(self, project_id)

    def changed_tasks(self: Client, project_id: int, since: Any) -> Any:
        for page in real_changed(self, project_id, since):
            seen.append(f"{len(page)} changed")
            yield page

    monkeypatch.setattr(Client, "all_tasks", all_tasks)
    monkeypatch.setattr(Client, "changed_tasks", changed_tasks)
    return seen


@pytest.fixture
def unheard(factory: Factory, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """No event comes."""
    monkeypatch.setattr(reconcile, "ensure_webhook", lambda *_: None)
    (hook,) = factory.client.webhooks(made.project)
    factory.client.update_webhook(hook["id"], url=hook["url"], is_active=False)


@pytest.mark.usefixtures("unheard")
def test_reconciling_fetches_only_what_changed(made: Made, api: Any, listings: list[str]) -> None:
    kept = api.create(made.task(0), result=said("accept"))
    lost = api.create(made.task(1), result=said("reject"))
    made.reconcile()
    assert listings == ["all"]  # the first time
    before = made.forget_overlap()
    listings.clear()

    api.update(kept.id, result=said("reject"))
    api.delete(lost.id)
    api.create(made.task(2), result=said("fix"))
    made.reconcile()
    assert listings == ["3 changed"]
    assert made.states() == ["rejected", "in_review", "fixed", "in_review"]
    assert made.watermark() >= before.replace(microsecond=0) - reconcile.OVERLAP  # whole seconds


@pytest.mark.usefixtures("unheard")
def test_what_no_change_tells_of_is_found_by_counting(
    factory: Factory, made: Made, api: Any, listings: list[str]
) -> None:
    api.create(made.task(0), result=said("reject"))
    made.reconcile()
    listings.clear()
    factory.client._api.tasks.delete(str(made.task(0)))
    made.reconcile()
    assert "all" in listings
    assert made.states() == ["in_review"] * 4
    assert made.push_error(0) == "The task was deleted in Label Studio."


def test_a_task_made_twice_is_deleted_unless_it_has_the_only_verdict(
    factory: Factory, made: Made, api: Any
) -> None:
    def double(sample: int) -> int:
        data = {"text": "again", "sample_id": str(made.samples[sample])}
        (task,) = factory.client.import_tasks(made.project, [{"data": data}]).values()
        return task

    doubles = [double(sample) for sample in range(3)]
    firsts = [made.task(sample) for sample in range(3)]
    api.create(firsts[0], result=said("reject"))
    api.create(doubles[1], result=said("accept"))
    made.reconcile()
    assert made.states() == ["rejected", "accepted", "in_review", "in_review"]
    assert [made.task(sample) for sample in range(3)] == [firsts[0], doubles[1], firsts[2]]
    assert [task["id"] for task in made.tasks()] == sorted([*firsts[::2], made.task(3), doubles[1]])


def test_a_new_project_gets_what_had_no_review(factory: Factory, made: Made, api: Any) -> None:
    api.create(made.task(0), result=said("reject"))
    factory.handle_events()
    gone = made.project
    factory.client._api.projects.delete(gone)
    made.reconcile()
    assert made.states() == ["rejected", "generated", "generated", "generated"]
    made.push()
    assert made.states() == ["rejected", "in_review", "in_review", "in_review"]
    tasks = factory.client.changed_tasks(made.current_project, datetime(2020, 1, 1, tzinfo=UTC))
    assert made.current_project != gone
    assert sum(map(len, tasks)) == 3


def test_a_project_of_the_same_number_elsewhere_is_not_ours(
    factory: Factory, made: Made, api: Any
) -> None:
    """As after a move to another Label Studio: nothing of it is taken for ours."""
    api.create(made.task(0), result=said("reject"))
    factory.handle_events()
    (hook,) = factory.client.webhooks(made.project)
    factory.client._api.webhooks.delete(hook["id"])
    factory.client._api.projects.update(made.project, description="someone else's")
    made.reconcile()
    assert made.states() == ["rejected", "generated", "generated", "generated"]


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
