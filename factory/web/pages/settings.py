"""Access tokens, and what this factory is connected to."""

import uuid

from flask import flash, g, redirect, request, url_for
from flask.typing import ResponseReturnValue
from sqlalchemy.orm import Session

from factory import tokens
from factory.web import auth
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
    )
