"""The web process: what it loads, what it tells of itself, how it starts and stops."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from apiflask import APIFlask
from sqlalchemy import delete
from structlog.testing import capture_logs

from factory import circuits
from factory.circuits import Turn
from factory.db import Database
from factory.local import home
from factory.settings import Settings
from factory.tables import Circuit
from factory.web import create_app


def test_it_loads_no_models(settings: Settings) -> None:
    script = (
        "import sys; from factory.settings import load; from factory.web import create_app;"
        "import factory.web.serve;"
        "app = create_app(load()); assert app.test_client().get('/healthz').status_code == 200;"
        "assert app.test_client().get('/openapi.json').status_code == 200;"
        "print(*{'torch', 'transformers', 'peft', 'label_studio_sdk', 'workers'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "FACTORY_DATABASE_URL": settings.database_url},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == ""


def test_health_needs_no_token(app: APIFlask) -> None:
    client = app.test_client()
    assert client.get("/healthz").get_json()["status"] == "live"
    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert ready.get_json()["checks"] == {"database": "ok", "broker": "ok", "migrations": "ok"}
    assert "FACTORY_LABEL_STUDIO_URL" in ready.get_json()["degraded"][0]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"database_url": "postgresql+psycopg://x@127.0.0.1:1/x"}, "database"),
        ({"broker_url": "redis://127.0.0.1:1"}, "broker"),
    ],
)
def test_it_is_not_ready_without_what_it_needs(
    settings: Settings, change: dict[str, str], part: str
) -> None:
    client = create_app(settings.model_copy(update=change)).test_client()
    assert client.get("/healthz").status_code == 200
    response = client.get("/readyz")
    assert response.status_code == 503
    assert part in [error["field"] for error in response.get_json()["errors"]]


def test_it_is_not_ready_before_the_migrations(settings: Settings, empty_postgres_url: str) -> None:
    empty = settings.model_copy(update={"database_url": empty_postgres_url})
    response = create_app(empty).test_client().get("/readyz")
    assert response.status_code == 503
    assert [error["field"] for error in response.get_json()["errors"]] == ["migrations"]
    assert "factory migrate" in response.get_json()["detail"]


def test_a_label_studio_that_is_away_is_no_reason_to_be_unready(settings: Settings) -> None:
    away = settings.model_copy(update={"label_studio_url": "http://127.0.0.1:1"})
    response = create_app(away).test_client().get("/readyz")
    assert response.status_code == 200
    assert response.get_json()["degraded"][0].startswith("label_studio")


def test_what_the_workers_met_is_said_while_it_stays_ready(
    settings: Settings, db: Database
) -> None:
    reviewed = settings.model_copy(update={"label_studio_url": "http://127.0.0.1:1"})
    client = create_app(reviewed).test_client()
    assert 'factory_degraded{part="label_studio"} 0.0' in client.get("/metrics").text
    with db.transaction() as session:
        error = "Label Studio cannot import tasks now (502): bad gateway"
        circuits.failed(session, circuits.LABEL_STUDIO, Turn(), error, 5, retry_after=60)
        since = circuits.find(session, circuits.LABEL_STUDIO).since
    ready, metrics = client.get("/readyz"), client.get("/metrics").text
    with db.transaction() as session:
        session.execute(delete(Circuit))
    assert ready.status_code == 200
    (said,) = ready.get_json()["degraded"]
    assert said.startswith(f"label_studio since {since:%FT%TZ}: {error}. Samples are made ")
    assert said.endswith("what waits follows by itself.")
    assert 'factory_degraded{part="label_studio"} 1.0' in metrics
    (told,) = re.findall(r'factory_degraded_since_seconds{part="label_studio"} (\S+)', metrics)
    assert float(told) == pytest.approx(since.timestamp(), abs=0.01)
    assert "factory_pushes_waiting" in metrics


def test_metrics_count_requests_and_rows(app: APIFlask, known: Any) -> None:
    client = app.test_client()
    client.get("/healthz")
    text = client.get("/metrics").text
    assert 'factory_http_requests_total{method="GET",route="/healthz",status="200"}' in text
    assert 'factory_jobs{state="succeeded"} 1.0' in text
    assert 'factory_samples{state="generated"} 5.0' in text
    assert "factory_outbox_wake_ups" in text
    assert "factory_database_up 1.0" in text


def test_metrics_are_there_without_a_database(settings: Settings) -> None:
    lost = settings.model_copy(update={"database_url": "postgresql+psycopg://x@127.0.0.1:1/x"})
    assert "factory_database_up 0.0" in create_app(lost).test_client().get("/metrics").text


def test_every_answer_has_an_id_and_headers_for_safety(app: APIFlask) -> None:
    client = app.test_client()
    for path in ("/healthz", "/nothing", "/api/v1/jobs"):
        headers = client.get(path, headers={"X-Request-Id": "mine-1"}).headers
        assert headers["X-Request-Id"] == "mine-1"
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
    forged = client.get("/healthz", headers={"X-Request-Id": "a b"}).headers["X-Request-Id"]
    assert forged != "a b"


def test_every_request_is_one_line_in_the_log_without_secrets(api: Any) -> None:
    structlog.reset_defaults()  # whatever a test before has configured
    with capture_logs() as lines:
        api.get("/datasets?limit=3", headers={"X-Request-Id": "abc"})
        api.get("/nothing")
    assert [line["event"] for line in lines] == ["http.request"] * 2
    assert lines[0].items() >= {
        "request_id": "abc", "method": "GET", "path": "/api/v1/datasets", "status": 200
    }.items()  # fmt: skip
    assert lines[0]["ms"] > 0
    assert "sf_" not in str(lines)


def test_the_document_describes_every_route(app: APIFlask) -> None:
    document = app.test_client().get("/openapi.json").get_json()
    rules = {rule.rule for rule in app.url_map.iter_rules() if rule.rule.startswith("/api/")}
    assert len([path for path in document["paths"] if path.startswith("/api/")]) == len(rules)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"].endswith("."), path
            assert "500" in operation["responses"]
            if path.startswith("/api/"):
                assert operation["security"]


def test_it_serves_with_the_settings_token_and_stops_when_told(
    settings: Settings, tmp_path: Path
) -> None:
    port = home.free_port()
    environment = {
        "FACTORY_DATABASE_URL": settings.database_url,
        "FACTORY_BROKER_URL": settings.broker_url,
        "FACTORY_PORT": str(port),
        "FACTORY_TOKEN": "sf_given",
    }
    script = "from factory.settings import load; from factory.web.serve import serve; serve(load())"
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, **environment, "PYTHONPATH": str(Path(__file__).parents[3])},
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    try:
        api = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": "Bearer sf_given"}
        )
        _await(api)
        assert api.get("/api/v1/datasets").status_code == 200
        chunked = api.post("/api/v1/datasets/none/samples", content=iter([b"{}\n"] * 3))
        assert chunked.status_code == 404
        large = api.post("/api/v1/datasets/none/samples", content=iter([b"x" * 1024**2] * 65))
        assert large.status_code == 413
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    assert list(tmp_path.iterdir()) == []


def _await(api: httpx.Client) -> None:
    for _ in range(200):
        try:
            if api.get("/healthz").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError("It does not answer.")
