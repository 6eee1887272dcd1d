"""Signing in and out, and requests from other sites."""

import uuid

import pytest
from apiflask import APIFlask

from factory import tokens
from factory.db import Database

from .conftest import TOKEN, Html, Visitor, state_of


def test_a_stranger_is_asked_to_sign_in_and_comes_back(stranger: Visitor) -> None:
    asked = stranger.get("/jobs?state=failed")
    assert asked.status_code == 303
    form = stranger.get(asked.location)
    back = next(a for _, a in Html(form.text).tags if a.get("name") == "next")["value"]
    assert "factory token create" in form.text
    signed_in = stranger.post("/login", {"token": f" {TOKEN} ", "next": back})
    assert (signed_in.status_code, signed_in.location) == (303, "/jobs?state=failed")
    assert stranger.get("/jobs").status_code == 200


def test_a_wrong_token_is_refused_next_to_the_field(stranger: Visitor) -> None:
    refused = stranger.post("/login", {"token": "sf_wrong"})
    assert refused.status_code == 401
    page = Html(refused.text)
    assert page.by_id("token")["aria-describedby"] == "token-error"
    assert "unknown or revoked" in page.text
    assert stranger.get("/").status_code == 303


@pytest.mark.parametrize("elsewhere", ["https://evil.example", "//evil.example", "/\\evil.example"])
def test_signing_in_never_leads_to_another_site(stranger: Visitor, elsewhere: str) -> None:
    assert stranger.post("/login", {"token": TOKEN, "next": elsewhere}).location == "/"


def test_signing_out_ends_the_session(visitor: Visitor) -> None:
    assert visitor.post("/logout").location == "/login"
    assert visitor.get("/").status_code == 303


def test_a_revoked_token_ends_the_session(stranger: Visitor, db: Database) -> None:
    with db.transaction() as session:
        token, value = tokens.create(session, "short-lived")
    stranger.log_in(value)
    with db.transaction() as session:
        tokens.revoke(session, token.id)
    assert stranger.get("/").location.startswith("/login")
    polled = stranger.client.get("/health/chip", headers={"HX-Request": "true"})
    assert (polled.status_code, polled.headers["HX-Redirect"]) == (401, "/login")


def _forms(app: APIFlask) -> list[str]:
    """Every address of the dashboard that changes something."""
    values = {"name": "x", "action": "cancel", "kind": "replay"}
    return [
        rule.build({**values, **dict.fromkeys(rule.arguments - values.keys(), uuid.uuid4())})[1]
        for rule in app.url_map.iter_rules()
        if rule.endpoint.startswith("pages.") and "POST" in (rule.methods or ())
    ]


@pytest.mark.parametrize("origin", ["https://evil.example", None, "null"])
def test_every_form_refuses_a_request_from_elsewhere(app: APIFlask, origin: str | None) -> None:
    client = app.test_client()
    Visitor(client).log_in()
    attacker = Visitor(client, origin)
    forms = [path for path in _forms(app) if path not in ("/login", "/logout")]
    assert len(forms) >= 10
    for path in forms:
        answer = attacker.post(path)
        assert answer.status_code == 403, path
        assert answer.mimetype == "text/html"


def test_another_site_cannot_cancel_a_job(app: APIFlask, db: Database, job: uuid.UUID) -> None:
    client = app.test_client()
    Visitor(client).log_in()
    Visitor(client, "https://evil.example").post(f"/jobs/{job}/cancel")
    assert state_of(db, job) == "pending"
