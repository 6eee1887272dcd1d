"""Samples become tasks of a real Label Studio, each once, whatever is lost on the way."""

import uuid
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

from factory import outbox
from factory.errors import Invalid, Unavailable
from factory.settings import Settings
from factory.tables import Dataset
from workers.labelstudio import push as push_module
from workers.labelstudio.client import Client, connect
from workers.labelstudio.project import WEBHOOK_PATH, ensure_project, ensure_webhook

from .conftest import Factory, said


def test_every_sample_becomes_one_task(factory: Factory) -> None:
    made = factory.make("one", "two <b>bold</b>", "three $text")
    made.push()

    assert made.states() == ["in_review"] * 3
    assert not made.owed(outbox.PUSH)
    tasks = made.tasks()
    assert [task["data"]["text"] for task in tasks] == ["one", "two <b>bold</b>", "three $text"]
    first = tasks[0]
    sample = str(made.samples[0])
    assert first["data"]["sample_id"] == sample
    assert first["data"]["job"] == str(made.job)
    assert first["data"]["ordinal"] == 0
    assert first["data"]["url"] == f"{factory.settings.url}/samples/{sample}"
    assert first["meta"]["provenance"].endswith(f"/api/v1/samples/{sample}/provenance")
    (prediction,) = first["predictions"]
    assert prediction["model_version"] == f"pair (job {made.job})"
    assert prediction["score"] == pytest.approx(0.5)  # mean of .25 and .75
    assert prediction["result"][0]["from_name"] == "verdict"


def test_a_second_push_adds_only_what_is_new(factory: Factory) -> None:
    made = factory.make("one", "two")
    made.push()
    with factory.database.transaction() as session:
        outbox.owe(session, outbox.PUSH, made.id)
    made.push()
    assert len(made.tasks()) == 2


def test_many_samples_go_in_chunks(factory: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_module, "CHUNK", 3)
    made = factory.make(*(f"text {i}" for i in range(8)))
    made.push()
    assert [task["data"]["ordinal"] for task in made.tasks()] == list(range(8))


@pytest.fixture
def lost_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next import is done by Label Studio, but its reply never comes."""
    real = Client.import_tasks

    def lose(self: Client, project_id: int, tasks: Any) -> Any:
        real(self, project_id, tasks)
        monkeypatch.setattr(Client, "import_tasks", real)
        raise Unavailable("the connection was reset")

    monkeypatch.setattr(Client, "import_tasks", lose)


@pytest.mark.usefixtures("lost_reply")
def test_a_lost_reply_doubles_no_task(factory: Factory) -> None:
    made = factory.make("one", "two", "three")
    made.push()
    assert made.states() == ["generated"] * 3
    assert made.owed(outbox.PUSH)
    assert made.push_error(0) == "the connection was reset"

    made.push()  # the dispatcher sends what is still owed again
    assert made.states() == ["in_review"] * 3
    assert len(made.tasks()) == 3
    assert [made.task(i) for i in range(3)] == [task["id"] for task in made.tasks()]
    assert made.push_error(0) is None


def test_a_reply_without_task_ids_is_looked_up(
    factory: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = factory.cpu._label_studio()._api
    real = type(api.projects).import_tasks

    def without_ids(self: Any, project_id: int, **options: Any) -> Any:
        return real(self, project_id, **{**options, "return_task_ids": False})

    monkeypatch.setattr(type(api.projects), "import_tasks", without_ids)
    made = factory.make("one", "two")
    made.push()
    assert [made.task(i) for i in range(2)] == [task["id"] for task in made.tasks()]


def test_a_project_is_made_once_and_found_again(factory: Factory) -> None:
    made = factory.make("one")
    first = ensure_project(factory.database, factory.client, made.id)
    assert ensure_project(factory.database, factory.client, made.id) == first
    with factory.database.transaction() as session:
        session.execute(
            update(Dataset).where(Dataset.id == made.id).values(label_studio_project=None)
        )
    assert ensure_project(factory.database, factory.client, made.id) == first


def test_a_project_shows_the_prompt_as_text(factory: Factory) -> None:
    made = factory.make("one")
    made.push()
    project = factory.client.project(made.project)
    assert project is not None
    assert "Write &lt;b&gt;a&lt;/b&gt; hypothesis" in project["expert_instruction"]
    assert project["show_collab_predictions"] is False


def test_a_changed_form_stops_the_push_with_the_reason(factory: Factory) -> None:
    made = factory.make("one")
    project = ensure_project(factory.database, factory.client, made.id)
    config = '<View><Text name="text" value="$text"/></View>'
    factory.client._api.projects.update(project, label_config=config)
    made.push()
    assert made.states() == ["generated"]
    assert "named 'verdict'" in (made.push_error(0) or "")
    assert made.owed(outbox.PUSH)


def test_the_webhook_is_registered_once_and_kept_up_to_date(factory: Factory) -> None:
    made = factory.make("one")
    made.push()
    (hook,) = factory.client.webhooks(made.project)
    assert hook["url"] == factory.settings.url + WEBHOOK_PATH
    assert hook["headers"] == {"Authorization": "Bearer the-secret-of-the-webhook"}

    moved = factory.settings.model_copy(update={"url": "http://127.0.0.1:9", "webhook_secret": "n"})
    for _ in range(2):
        ensure_webhook(factory.client, moved, made.project)
    (hook,) = factory.client.webhooks(made.project)
    assert hook["url"] == "http://127.0.0.1:9" + WEBHOOK_PATH
    assert hook["headers"] == {"Authorization": "Bearer n"}


@pytest.mark.parametrize("url", ["http://no-dot:1", "http://unknown.invalid:1"])
def test_an_address_that_label_studio_refuses_stops_no_push(factory: Factory, url: str) -> None:
    made = factory.make("one")
    nameless = factory.settings.model_copy(update={"url": url})
    cpu = type(factory.cpu)(replace(factory.cpu.worker, settings=nameless))
    cpu.push(made.id)
    assert made.states() == ["in_review"]


def test_label_studio_that_is_away_leaves_the_push_owed(factory: Factory) -> None:
    made = factory.make("one")
    away = factory.settings.model_copy(update={"label_studio_url": "http://127.0.0.1:1"})
    cpu = type(factory.cpu)(replace(factory.cpu.worker, settings=away))
    cpu.push(made.id)
    assert made.owed(outbox.PUSH)
    assert "does not answer" in (made.push_error(0) or "")


def test_a_wrong_key_is_named(factory: Factory) -> None:
    wrong = factory.settings.model_copy(update={"label_studio_api_key": "x" * 40})
    with pytest.raises(Invalid) as error:
        connect(wrong).project(1)
    assert "FACTORY_LABEL_STUDIO_API_KEY" in error.value.detail


def test_no_label_studio_is_named() -> None:
    with pytest.raises(Invalid) as error:
        connect(Settings(label_studio_url=""))
    assert "FACTORY_LABEL_STUDIO_URL" in error.value.detail


def test_what_label_studio_refuses_is_said(factory: Factory) -> None:
    made = factory.make("one")
    project = ensure_project(factory.database, factory.client, made.id)
    with pytest.raises(Invalid) as error:
        factory.client.import_tasks(project, [{"data": {"sample_id": str(uuid.uuid4())}}])
    assert '"text" key is expected' in error.value.detail.replace("\\", "")


def test_the_simulated_reviewer_reviews_what_has_no_annotation(factory: Factory) -> None:
    made = factory.make("one", "two", "three")
    made.push()
    user = factory.client.ensure_user("ann@example.org", "Ann", "Lee")
    assert factory.client.ensure_user("ann@example.org", "Ann", "Lee") == user
    factory.client.annotate(made.task(1), user, said("reject"))

    factory.cpu.simulate_reviews(made.id)
    factory.cpu.simulate_reviews(made.id)
    made.reconcile()

    assert made.states() == ["accepted", "rejected", "accepted"]
    assert made.reviews(0)[0].reviewer.startswith("Simulated reviewer")
    assert made.reviews(1)[0].reviewer == "Ann Lee ann@example.org"
