"""Every error as RFC 9457 `application/problem+json`."""

import json
from typing import Any

from flask import Flask, Response, g, request
from pydantic import BaseModel, Field
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException

from factory import log
from factory.errors import FactoryError, FieldError, Unavailable

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5

logger = log.get(__name__)


class ProblemField(BaseModel):
    """One thing that is wrong with one field of the request."""

    field: str
    reason: str


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = Field(description="'about:blank', or the name of the error as a URN")
    title: str
    status: int = Field(ge=400, le=599)
    detail: str = Field(description="What, where, and how to mend it")
    errors: list[ProblemField]
    request_id: str = Field(description="As in the X-Request-Id header and in the log")


def configure(app: Flask) -> None:
    """Answer every error of this application with a problem."""
    app.register_error_handler(FactoryError, from_error)
    app.register_error_handler(HTTPException, from_http)
    app.register_error_handler(PoolTimeout, _from_full_pool)
    app.register_error_handler(Exception, _from_bug)


def from_error(error: FactoryError) -> Response:
    """The problem of one of our own errors; those of status 500 keep their detail in the log."""
    if error.status >= 500 and not error.retryable:
        return _from_bug(error)
    response = problem(
        error.status, error.title, error.detail, error.errors, kind=_kind(type(error))
    )
    if error.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="factory"'
    if error.retryable:
        response.headers["Retry-After"] = str(RETRY_SECONDS)
    return response


def problem(
    status: int, title: str, detail: str, errors: tuple[FieldError, ...] = (), kind: str = ""
) -> Response:
    """A problem response."""
    body: dict[str, Any] = {
        "type": f"urn:steer-factory:{kind}" if kind else "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "errors": [{"field": error.field, "reason": error.reason} for error in errors],
        "request_id": g.get("request_id", ""),
    }
    return Response(json.dumps(body, ensure_ascii=True), status, mimetype=MEDIA_TYPE)


def from_http(error: HTTPException) -> Response:
    """The problem of an error of the HTTP layer; redirects stay what they are."""
    given = error.get_response()
    if given.status_code < 400:
        return Response(given.get_data(), given.status_code, given.headers)
    response = problem(given.status_code, error.name, _detail(error))
    for name in ("Allow", "Retry-After", "WWW-Authenticate"):
        if name in given.headers:
            response.headers[name] = given.headers[name]
    return response


def _detail(error: HTTPException) -> str:
    if error.code == 404:
        return f"There is nothing at {request.path}."
    if error.code == 405:
        return f"{request.method} is not allowed at {request.path}."
    return error.description or error.name


def _from_full_pool(_: PoolTimeout) -> Response:
    return from_error(Unavailable("All database connections are in use. Try again."))


def _from_bug(error: Exception) -> Response:
    """Nothing of the inside is told: the request id leads to the log."""
    logger.error("http.failed", path=request.path, exc_info=error)
    detail = f"The log has more under request_id={g.get('request_id', '')}."
    return problem(500, "Something went wrong", detail)


def _kind(error: type[FactoryError]) -> str:
    words = "".join(f"-{c.lower()}" if c.isupper() else c for c in error.__name__)
    return words.lstrip("-")
