"""Access tokens, and what this factory is connected to."""

import uuid

from flask import flash, g, redirect, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from factory import tokens
from factory.settings import Settings
from factory.web import auth
from factory.web.pages import label_studio, words
from factory.web.pages.forms import Form
from factory.web.pages.frame import page, pages
from factory.web.state import current

LONGEST_NAME = 100


@pages.get("/settings")
def settings() -> ResponseReturnValue:
    """Tokens and connections."""
    with current().db.transaction() as session:
        return _shown(session, Form({"name": ""}))


@pages.post("/settings/tokens")
def create_token() -> ResponseReturnValue:
    """Make a token and show it, this once."""
    form = Form({"name": request.form.get("name", "").strip()})
    with current().db.transaction() as session:
        if not 0 < len(form.values["name"]) <= LONGEST_NAME:
            form.errors["name"] = f"Give it a name of 1 to {LONGEST_NAME} characters."
            return _shown(session, form, status=422)
        _, value = tokens.create(session, form.values["name"])
        return _shown(session, Form({"name": ""}), value=value)


@pages.post("/settings/tokens/<uuid:token_id>/revoke")
def revoke_token(token_id: uuid.UUID) -> ResponseReturnValue:
    """End a token; revoking one's own ends the session too."""
    with current().db.transaction() as session:
        revoked = tokens.revoke(session, token_id)
    if token_id == g.token_id:
        auth.logout()
        return redirect(url_for("pages.login"), 303)
    flash(f"Token {revoked.name} is revoked.", "good")
    return redirect(url_for("pages.settings"), 303)


@pages.post("/settings/label-studio/test")
def test_label_studio() -> ResponseReturnValue:
    """Try the connection now."""
    tested = label_studio.tested(current().settings)
    flash(tested.said, "good" if tested.good else "bad")
    return redirect(url_for("pages.settings") + "#ls", 303)


def _shown(
    session: Session, form: Form, *, value: str | None = None, status: int = 200
) -> ResponseReturnValue:
    return page(
        session,
        "settings.html",
        status=status,
        form=form,
        value=value,
        tokens=tokens.list_all(session),
        own=g.token_id,
        label_studio_url=current().settings.label_studio_url,
        has_key=bool(current().settings.label_studio_api_key),
        limits=_limits(current().settings),
    )


def _limits(settings: Settings) -> list[tuple[str, str, str]]:
    """What bounds this factory: in words, its value, and the setting that changes it."""
    return [
        (
            "Answered requests and webhook events are kept",
            f"{settings.retention_days:g} days",
            "FACTORY_RETENTION_DAYS",
        ),
        ("A shard is tried", f"{settings.shard_attempts} times", "FACTORY_SHARD_ATTEMPTS"),
        (
            "A worker unheard of loses its shard after",
            words.duration(settings.lease_seconds),
            "FACTORY_LEASE_SECONDS",
        ),
        (
            "A worker that makes no step is ended after",
            words.duration(settings.stall_seconds),
            "FACTORY_STALL_SECONDS",
        ),
        ("Rows that a worker decodes side by side", str(settings.slots), "FACTORY_SLOTS"),
        (
            "Reviews are compared with Label Studio every",
            words.duration(settings.reconcile_seconds),
            "FACTORY_RECONCILE_SECONDS",
        ),
        ("The largest upload", f"{settings.max_body_bytes // 2**20} MiB", "FACTORY_MAX_BODY_BYTES"),
    ]
