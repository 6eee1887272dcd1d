"""Is it alive, is it ready, and what does it count? These routes need no token: they tell of
numbers and names of parts, never of data."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
from alembic.script import ScriptDirectory
from apiflask import APIBlueprint
from flask import Response
from kombu.exceptions import OperationalError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy import text

import factory
from factory import degraded, dispatch
from factory.errors import FieldError, Unavailable
from factory.web import shapes
from factory.web.openapi import document
from factory.web.state import State, current

PROBE_SECONDS = 0.5  # well below what a load balancer waits for /readyz

routes = APIBlueprint("health", __name__)


@routes.get("/healthz")
@routes.output(shapes.Live)
def healthz() -> dict[str, str]:
    """Tell that the process answers."""
    return {"version": factory.__version__}


@routes.get("/readyz")
@routes.output(shapes.Ready)
def readyz() -> dict[str, Any]:
    """Tell whether the database, the broker and the migrations are as needed."""
    state = current()
    failed: list[FieldError] = []
    for name, check in CHECKS.items():
        try:
            check(state)
        except (Unavailable, OperationalError) as error:
            failed.append(FieldError(name, str(error)))
    if failed:
        raise Unavailable("; ".join(f"{e.field}: {e.reason}" for e in failed), failed)
    return {"checks": dict.fromkeys(CHECKS, "ok"), "degraded": list(_degraded(state))}


@routes.get("/metrics")
@routes.doc(responses={200: document("Prometheus' text format", "text/plain")})
def metrics() -> Response:
    """Show counters and gauges for Prometheus."""
    return Response(generate_latest(current().metrics.registry), content_type=CONTENT_TYPE_LATEST)


def _check_database(state: State) -> None:
    state.db.ping()


def _check_broker(state: State) -> None:
    dispatch.ping(state.broker)


def _check_migrations(state: State) -> None:
    """Raise Unavailable unless the database is at the newest migration that we know."""
    newest = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    with state.db.transaction() as session:
        there = session.scalar(text("SELECT to_regclass('alembic_version')"))
        now = session.scalar(text("SELECT version_num FROM alembic_version")) if there else None
    if now != newest:
        raise Unavailable(
            f"The database is at {now or 'nothing'}, {newest} is needed. Run `factory migrate`."
        )


MIGRATIONS = Path(factory.__file__).parents[1] / "migrations"
CHECKS: dict[str, Callable[[State], None]] = {
    "database": _check_database,
    "broker": _check_broker,
    "migrations": _check_migrations,
}


def _degraded(state: State) -> Iterator[str]:
    """Parts that samples are made without. What the workers know is not asked anew: a service
    that does not answer must not make this answer slow."""
    url = state.settings.label_studio_url
    with state.db.transaction() as session:
        known = degraded.label_studio(session, state.settings)
        if not url:
            yield f"label_studio: not set up (FACTORY_LABEL_STUDIO_URL); {degraded.waits(session)}"
    if known:
        yield str(known)
    elif url:
        yield from _probed(url)


def _probed(url: str) -> Iterator[str]:
    try:
        httpx.get(f"{url.rstrip('/')}/health", timeout=PROBE_SECONDS).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        yield f"label_studio: it does not answer ({error}). Start it, or look into its log."
