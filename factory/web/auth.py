"""Who may call: a bearer token, or the session cookie that the dashboard's login sets.

The cookie is signed, HttpOnly, SameSite=Lax, and Secure on TLS. It names a token, which must
still be live on every request. With the cookie, unsafe methods must come from our own pages:
browsers say so in `Sec-Fetch-Site` or `Origin`. A bearer token needs no such check, since
no other site's page can add it.
"""

import uuid
from datetime import timedelta
from urllib.parse import urlsplit

from flask import Flask, g, request, session
from flask.sessions import SecureCookieSessionInterface

from factory import tokens
from factory.errors import Forbidden, Unauthorized
from factory.web.state import KEY, current

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
SESSION_LIFETIME = timedelta(days=7)
_TOKEN = "token"  # noqa: S105


class SessionCookies(SecureCookieSessionInterface):
    """Flask's signed cookies, Secure whenever the request came over TLS."""

    def get_cookie_secure(self, app: Flask) -> bool:
        """Behind a proxy gunicorn knows TLS from X-Forwarded-Proto (FORWARDED_ALLOW_IPS)."""
        return request.is_secure


def configure(app: Flask) -> None:
    """Set the cookie's name, scope and lifetime."""
    app.session_interface = SessionCookies()
    app.config.update(
        SECRET_KEY=app.extensions[KEY].settings.secret_key,
        SESSION_COOKIE_NAME="factory_session",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        PERMANENT_SESSION_LIFETIME=SESSION_LIFETIME,
    )


def required() -> None:
    """Let the request pass only with a live token. Raises Unauthorized or Forbidden."""
    value = _bearer()
    if value is not None:
        _use(value=value)
        return
    token_id = logged_in()
    if token_id is None:
        raise Unauthorized("Send `Authorization: Bearer <token>`.")
    check_same_origin()
    _use(token_id=token_id)


def login(value: str) -> None:
    """Start a session for the token of this value. Raises Unauthorized or Forbidden."""
    check_same_origin()
    with current().db.transaction() as db:
        token = tokens.verify(db, value.strip())
    session.clear()
    session.permanent = True
    session[_TOKEN] = str(token.id)


def logout() -> None:
    """End the session of this browser."""
    session.clear()


def logged_in() -> uuid.UUID | None:
    """The id of the session's token, which may have been revoked since."""
    value = session.get(_TOKEN)
    return uuid.UUID(value) if value else None


def check_same_origin() -> None:
    """Refuse an unsafe request that another site's page may have sent. Raises Forbidden."""
    if request.method in SAFE_METHODS:
        return
    site = request.headers.get("Sec-Fetch-Site")
    origin = request.headers.get("Origin")
    ours = site == "same-origin" if site else bool(origin) and _host(origin) == request.host
    if not ours:
        raise Forbidden(
            "With the session cookie, requests that change something must come from the "
            "dashboard's own pages. Elsewhere send `Authorization: Bearer <token>`."
        )


def _bearer() -> str | None:
    kind, _, value = request.headers.get("Authorization", "").partition(" ")
    if not kind:
        return None
    if kind.lower() != "bearer" or not value.strip():
        raise Unauthorized("The Authorization header must read `Bearer <token>`.")
    return value.strip()


def _use(*, value: str = "", token_id: uuid.UUID | None = None) -> None:
    with current().db.transaction() as db:
        token = tokens.verify(db, value) if token_id is None else tokens.live(db, token_id)
        tokens.touch(db, token.id)
        g.token_id = token.id


def _host(origin: str | None) -> str:
    return urlsplit(origin or "").netloc
