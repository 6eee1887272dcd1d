"""What happens around every request: an id, one log line, metrics, and headers for safety."""

import re
import time

from flask import Flask, Response, g, request

from factory import log
from factory.ids import new_id
from factory.web.state import current

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "frame-ancestors 'none'; form-action 'self'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")

logger = log.get(__name__)


def configure(app: Flask) -> None:
    """Watch every request of this application."""
    app.before_request(_begin)
    app.after_request(_finish)


def _begin() -> None:
    given = request.headers.get("X-Request-Id", "")
    g.request_id = given if REQUEST_ID.fullmatch(given) else str(new_id())
    g.began = time.perf_counter()


def _finish(response: Response) -> Response:
    seconds = time.perf_counter() - g.began
    _set_headers(response)
    route = request.url_rule.rule if request.url_rule else "none"
    current().metrics.observe(request.method, route, response.status_code, seconds)
    logger.info(
        "http.request",
        request_id=g.request_id,
        method=request.method,
        path=request.path,
        status=response.status_code,
        ms=round(seconds * 1000, 1),
    )
    return response


def _set_headers(response: Response) -> None:
    response.headers["X-Request-Id"] = g.request_id
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    if request.is_secure:
        response.headers["Strict-Transport-Security"] = "max-age=31536000"
    if "Cache-Control" not in response.headers and request.endpoint != "static":
        response.headers["Cache-Control"] = "no-store"
