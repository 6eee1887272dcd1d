"""Label Studio's webhook: only with the secret, stored once, answered at once."""

from typing import Any

import pytest
from sqlalchemy import func, select

from factory import outbox
from factory.db import Database
from factory.settings import Settings
from factory.tables import Outbox, WebhookEvent
from factory.web import create_app

PATH = "/webhooks/label-studio"
SECRET = {"Authorization": "Bearer the-secret-of-the-webhook"}
EVENT = {
    "action": "ANNOTATION_CREATED",
    "annotation": {"id": 7, "updated_at": "2026-01-01T00:00:00Z"},
    "project": {"id": 3},
}


def test_an_event_is_stored_once_and_owed(stranger: Any, db: Database) -> None:
    for _ in range(2):
        response = stranger.post(PATH, json=EVENT, headers=SECRET)
        assert (response.status_code, response.data) == (204, b"")
    with db.transaction() as session:
        event = session.scalars(select(WebhookEvent)).one()
        owed = select(Outbox.key).where(Outbox.task == outbox.HANDLE_EVENT)
        assert session.scalars(owed).all() == [event.id]
        assert (event.annotation_ids, event.project_id) == ([7], 3)


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"annotation": {"id": 2**40}, "project": {"id": -1}},
        {"annotation": None, "annotations": 5, "project": "x", "action": {"a": 1}},
        {"annotations": [{"id": True}, {"id": "x"}, 3]},
    ],
)
def test_odd_events_do_no_harm(stranger: Any, event: dict[str, Any]) -> None:
    assert stranger.post(PATH, json=event, headers=SECRET).status_code == 204


@pytest.mark.parametrize(
    "header", ["", "Bearer wrong", "Bearer sf_the-token-of-these-tests", "Bearer \xff"]
)
def test_without_the_secret_nothing_is_stored(stranger: Any, db: Database, header: str) -> None:
    count = select(func.count()).select_from(WebhookEvent)
    with db.transaction() as session:
        before = session.scalar(count)
    event = EVENT | {"action": "x"}
    response = stranger.post(PATH, json=event, headers={"Authorization": header})
    assert response.status_code == 401
    with db.transaction() as session:
        assert session.scalar(count) == before


def test_an_empty_secret_lets_nothing_in(settings: Settings) -> None:
    client = create_app(settings.model_copy(update={"webhook_secret": ""})).test_client()
    for header in ("", "Bearer ", "Bearer"):
        response = client.post(PATH, json=EVENT, headers={"Authorization": header})
        assert response.status_code == 401


def test_bad_bodies_are_refused(stranger: Any) -> None:
    big = {"x": "a" * 2_000_000}
    assert stranger.post(PATH, json=[1], headers=SECRET).status_code == 422
    assert stranger.post(PATH, data="{", headers=SECRET).status_code == 415
    assert stranger.post(PATH, json=big, headers=SECRET).status_code == 413
