"""Requests that a GPU worker answers while someone waits: replay, explanation, preview."""

import time
import uuid
from typing import Any

from flask import Response

from factory import requests, tables
from factory.web import problems, shapes, show
from factory.web.api.blueprint import PREFIX, blueprint
from factory.web.openapi import document, ref
from factory.web.state import State, current

FIRST_LOOK_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 0.5

ACCEPTED: dict[int, Any] = {
    202: document("It takes longer: look at `Location`", "application/json", schema=ref("Request"))
}

routes = blueprint("requests")


@routes.get("/requests/<uuid:request_id>")
@routes.output(shapes.Request)
def get_request(request_id: uuid.UUID) -> dict[str, Any]:
    """Show what became of a request that was answered with 202."""
    with current().db.transaction() as session:
        return show.request(requests.get(session, request_id))


def answered(kind: str, payload: dict[str, Any]) -> Any:
    """Ask a GPU worker and wait for a bounded time: its answer, its error, or a 202.

    Call it outside a transaction: nothing is held while it waits.
    """
    state = current()
    with state.db.transaction() as session:
        asked = requests.create(session, kind, payload)
    row = _wait(state, asked)
    if row.error is not None:
        return _refused(row.error)
    return row.result if row.done_at is not None else _accepted(row)


def _wait(state: State, asked: tables.Request) -> tables.Request:
    """The request as it is when it is done or time is up; at once when too many wait already."""
    if not state.waiting.acquire(blocking=False):
        return asked
    try:
        end = time.monotonic() + state.settings.request_wait_seconds
        pause = FIRST_LOOK_SECONDS
        row = asked
        while row.done_at is None and time.monotonic() + pause < end:
            time.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE_SECONDS)
            with state.db.transaction() as session:
                row = requests.get(session, asked.id)
        return row
    finally:
        state.waiting.release()


def _accepted(row: tables.Request) -> Response:
    shown = shapes.Request.model_validate(show.request(row))
    headers = {"Location": f"{PREFIX}/requests/{row.id}", "Retry-After": "1"}
    body = shown.model_dump_json()
    return Response(body, 202, headers=headers, mimetype="application/json")


def _refused(error: dict[str, Any]) -> Response:
    status = int(error["status"])
    detail = error["detail"] if status < 500 else "The worker's log has more."
    return problems.problem(status, error["title"], detail)
