"""Sign in with a token, and out."""

from flask import redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from factory.errors import Unauthorized
from factory.web import auth
from factory.web.pages.frame import pages


@pages.get("/login")
def login() -> ResponseReturnValue:
    """The form that asks for a token."""
    return render_template("login.html", frame=None, error=None, back=_back(request.args))


@pages.post("/login")
def send_login() -> ResponseReturnValue:
    """Start a session, then go where the reader was heading."""
    back = _back(request.form)
    try:
        auth.login(request.form.get("token", ""))
    except Unauthorized as error:
        return render_template("login.html", frame=None, error=error.detail, back=back), 401
    return redirect(back or url_for("pages.overview"), 303)


@pages.post("/logout")
def logout() -> ResponseReturnValue:
    """End the session."""
    auth.logout()
    return redirect(url_for("pages.login"), 303)


def _back(values: dict[str, str]) -> str:
    """A path of this site to go back to; nothing that leads elsewhere."""
    path = values.get("next", "")
    elsewhere = path[:1] != "/" or path[1:2] in ("/", "\\") or not path.isprintable()
    return "" if elsewhere else path
