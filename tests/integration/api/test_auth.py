"""Who may call: live tokens, and the dashboard's session from its own pages."""

from typing import Any

import pytest
from apiflask import APIFlask
from flask.testing import FlaskClient

from factory.errors import Forbidden, Unauthorized
from factory.web import auth

TOKEN = "sf_the-token-of-these-tests"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic abc", "Bearer wrong", "x"])
def test_without_a_live_token_every_route_is_401(app: APIFlask, stranger: Any, header: str) -> None:
    rules = [rule for rule in app.url_map.iter_rules() if rule.rule.startswith("/api/")]
    assert len(rules) > 30
    for rule in rules:
        some_id = "01a00000-0000-7000-8000-000000000000"
        _, path = rule.build(dict.fromkeys(rule.arguments, some_id)) or ("", "")
        method = next(iter((rule.methods or set()) - {"HEAD", "OPTIONS"}))
        response = stranger(method, path, headers={"Authorization": header})
        assert response.status_code == 401, path
        assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_token_works_until_it_is_revoked(api: Any, app: APIFlask) -> None:
    made = api.post("/tokens", json={"name": "mine"}).get_json()
    theirs = {"Authorization": f"Bearer {made['token']}"}
    assert api.get("/datasets", headers=theirs).status_code == 200
    listed = api.get("/tokens").get_json()["items"][0]
    assert listed["name"] == "mine"
    assert listed["last_used_at"] is not None
    assert "token" not in listed
    for _ in range(2):
        revoked = api("DELETE", f"/tokens/{made['id']}")
        assert revoked.get_json()["revoked_at"] is not None
    assert api.get("/datasets", headers=theirs).status_code == 401


@pytest.fixture
def browser(app: APIFlask) -> FlaskClient:
    """A browser with a session, as the dashboard's login leaves it."""
    client = app.test_client()
    _log_in(app, client)
    return client


def _log_in(app: APIFlask, client: FlaskClient) -> str:
    own = {"Sec-Fetch-Site": "same-origin"}
    with app.test_request_context("/login", method="POST", headers=own) as context:
        auth.login(f" {TOKEN} ")
        response = app.make_response("")
        app.session_interface.save_session(app, context.session, response)
    cookie = response.headers["Set-Cookie"]
    name, _, value = cookie.split(";")[0].partition("=")
    client.set_cookie(name, value)
    return cookie


def test_the_session_cookie_is_kept_from_scripts_and_other_sites(app: APIFlask) -> None:
    cookie = _log_in(app, app.test_client())
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert TOKEN not in cookie


def test_a_session_may_read_and_its_own_pages_may_write(browser: FlaskClient) -> None:
    assert browser.get("/api/v1/datasets").status_code == 200
    for header in ({"Sec-Fetch-Site": "same-origin"}, {"Origin": "http://localhost"}):
        made = browser.post("/api/v1/tokens", json={"name": "x"}, headers=header)
        assert made.status_code == 201


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
def test_other_sites_may_not_write_with_a_session(
    browser: FlaskClient, headers: dict[str, str]
) -> None:
    made = browser.post("/api/v1/tokens", json={"name": "x"}, headers=headers)
    assert made.status_code == 403


def test_a_forged_session_is_no_session(app: APIFlask) -> None:
    client = app.test_client()
    client.set_cookie("factory_session", "eyJ0b2tlbiI6IjEifQ.Z-abc.forged")
    assert client.get("/api/v1/datasets").status_code == 401


def test_a_session_ends_with_its_token(app: APIFlask, api: Any) -> None:
    made = api.post("/tokens", json={"name": "short"}).get_json()
    client = app.test_client()
    with client.session_transaction() as session:
        session["token"] = made["id"]
    assert client.get("/api/v1/datasets").status_code == 200
    api("DELETE", f"/tokens/{made['id']}")
    assert client.get("/api/v1/datasets").status_code == 401


def test_logging_in_needs_a_token_and_our_own_page(app: APIFlask) -> None:
    own = {"Sec-Fetch-Site": "same-origin"}
    page = app.test_request_context("/login", method="POST", headers=own)
    with page, pytest.raises(Unauthorized):
        auth.login("wrong")
    with app.test_request_context("/login", method="POST"), pytest.raises(Forbidden):
        auth.login(TOKEN)
