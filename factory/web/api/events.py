"""A job as a stream of server-sent events."""

import time
import uuid
from collections.abc import Iterator

from flask import Response

from factory import jobs
from factory.errors import Unavailable
from factory.web import shapes
from factory.web.api.blueprint import blueprint
from factory.web.api.jobs import shown
from factory.web.openapi import document
from factory.web.state import State, current

POLL_SECONDS = 0.5
HEARTBEAT_SECONDS = 15.0
CLOCKS = {"progress": {"updated_at", "eta_seconds"}}  # they move while nothing happens
EVENT = {
    "type": "object",
    "properties": {"event": {"const": "progress"}, "data": {"type": "string"}},
}
STREAM = "`event: progress`, its data the job; ends when the job has ended"

routes = blueprint("events")


@routes.get("/jobs/<uuid:job_id>/events")
@routes.doc(responses={200: document(STREAM, "text/event-stream", schema=EVENT)})
def job_events(job_id: uuid.UUID) -> Response:
    """Follow a job: an event now and at each change, until it has ended.

    Comments keep an idle stream open. Only so many streams are open at once (503).
    """
    state = current()
    with state.db.transaction() as session:
        jobs.get(session, job_id)
    if not state.waiting.acquire(blocking=False):
        raise Unavailable("Too many event streams are open. Ask for the job itself instead.")
    response = Response(_events(state, job_id), mimetype="text/event-stream")
    response.headers["X-Accel-Buffering"] = "no"  # for nginx: pass events on at once
    response.call_on_close(state.waiting.release)
    return response


def _events(state: State, job_id: uuid.UUID) -> Iterator[bytes]:
    """Looks at the job between pauses, in which it holds no connection."""
    before, spoke_at = None, time.monotonic()
    while True:
        with state.db.transaction() as session:
            job = shapes.Job.model_validate(shown(session, jobs.get(session, job_id)))
        now = job.model_dump(exclude=CLOCKS)
        if now != before:
            before, spoke_at = now, time.monotonic()
            yield f"event: progress\ndata: {job.model_dump_json()}\n\n".encode()
        elif time.monotonic() - spoke_at > HEARTBEAT_SECONDS:
            spoke_at = time.monotonic()
            yield b": still here\n\n"
        if job.state in jobs.ENDED:
            return
        time.sleep(POLL_SECONDS)
