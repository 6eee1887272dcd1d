"""Errors as pages in words. The API's own errors stay problem+json."""

from flask import Flask, g, render_template, request
from flask.typing import ResponseReturnValue
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException

from factory import log
from factory.errors import FactoryError, Unavailable
from factory.web import problems
from factory.web.pages.frame import pages

logger = log.get(__name__)

DETAIL = {
    403: "This request may not be sent from there.",
    404: "There is no such page.",
    405: "This address does not take such a request.",
    413: "What was sent is larger than this factory accepts.",
    500: "Something happened that we did not expect.",
}
MEND = {
    403: "Open the page from the dashboard itself and try again.",
    404: "It may have another name, or the link is incomplete.",
    405: "Go back and use the buttons of the page.",
    409: "Go back and look at how it is now.",
    413: "Send it in smaller parts.",
    422: "Go back and mend it.",
    503: "`factory doctor` says what is missing and how to mend it.",
}


def register(app: Flask) -> None:
    """Answer addresses that are nobody's with a page, where a browser asked."""
    for status in (404, 405):
        app.register_error_handler(status, _nobodys)


@pages.errorhandler(FactoryError)
def refused(error: FactoryError) -> ResponseReturnValue:
    """One of our own errors, which says what, where and how to mend."""
    if error.status >= 500 and not error.retryable:
        return unexpected(error)
    return _page(error.status, error.title, error.detail, error)


@pages.errorhandler(PoolTimeout)
def busy(_: PoolTimeout) -> ResponseReturnValue:
    """Every database connection is in use."""
    return refused(Unavailable("All database connections are in use."))


@pages.errorhandler(HTTPException)
def http_error(error: HTTPException) -> ResponseReturnValue:
    """An error of the HTTP layer: a bad address, a body that is too large."""
    status = error.code or 500
    if status < 400:
        return error.get_response()
    return _page(status, error.name, DETAIL.get(status, error.description or error.name))


@pages.errorhandler(Exception)
def unexpected(error: Exception) -> ResponseReturnValue:
    """A bug: the log has it, the page tells nothing of the inside."""
    logger.error("http.failed", path=request.path, exc_info=error)
    where = f"The log of the web process has more under request_id={g.get('request_id', '')}."
    return _page(500, "Something went wrong", f"{DETAIL[500]} {where}")


def _nobodys(error: HTTPException) -> ResponseReturnValue:
    accepts = request.accept_mimetypes
    browser = accepts["text/html"] > accepts["application/json"]
    if request.path.startswith("/api/") or not browser:
        return problems.from_http(error)
    return _page(error.code or 404, error.name, DETAIL[error.code or 404])


def _page(
    status: int, title: str, detail: str, error: FactoryError | None = None
) -> tuple[str, int]:
    body = render_template(
        "error.html",
        frame=None,
        status=status,
        title=title,
        detail=detail,
        errors=error.errors if error else (),
        mend=MEND.get(status, ""),
    )
    return body, status
