"""Server time of every page and list at a million samples. Run: `make bench-dashboard`.

A real Postgres is filled by SQL (see `dashboard_seed`), then each address is asked for many
times, with other datasets, jobs and samples each time, through the application itself. Printed:
median and 95th percentile of the server's milliseconds, and which tables a query read from end
to end, as EXPLAIN says, of those with over 50,000 rows.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import psycopg
from flask.testing import FlaskClient
from sqlalchemy import event, func, select, text

from factory import tokens
from factory.db import Database
from factory.tables import Dataset, Job, Sample
from factory.web import create_app
from factory.web.serve import settle
from factory.web.state import KEY
from tests import stores
from tests.benchmarks.dashboard_seed import Scale, fill

TOKEN = "sf_the-token-of-the-dashboard-benchmark"
LARGE = 50_000  # rows: tables that no page may read from end to end
AIM = 200  # milliseconds, 95th percentile


@dataclass(frozen=True)
class Line:
    """What was measured of one address; kilobytes are of its body, uncompressed."""

    address: str
    median: float
    p95: float
    kilobytes: float
    scans: list[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill, ask, print; 1 when something answered with an error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=Scale.samples)
    parser.add_argument("--jobs", type=int, default=Scale.jobs)
    parser.add_argument("--embedded", type=int, default=Scale.embedded)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path, help="folder whose database is used again")
    parser.add_argument("--only", default="", help="addresses that hold this text")
    asked = parser.parse_args(arguments)
    scale = Scale(
        samples=asked.samples,
        jobs=asked.jobs,
        embedded=asked.embedded,
        reviews=asked.samples // 5,
    )
    with _factory(asked.keep) as (db, client):
        _fill(db, scale)
        lines = [
            _measure(db, client, name, make, asked.rounds)
            for name, make in _addresses(db).items()
            if asked.only in name
        ]
    _print(lines, as_json=asked.json)
    return 0


def _fill(db: Database, scale: Scale) -> None:
    """Fill the database, unless it was kept from an earlier time."""
    with db.transaction() as session:
        if session.scalar(select(Dataset.id).limit(1)) is not None:
            return _say("filled already")
    _say(f"filling: {scale}")
    started = time.monotonic()
    fill(db, scale)
    return _say(f"filled in {time.monotonic() - started:.0f} s")


@contextmanager
def _factory(keep: Path | None) -> Iterator[tuple[Database, FlaskClient]]:
    with stores.running(keep=keep) as settings:
        app = create_app(settings)
        settle()
        db: Database = app.extensions[KEY].db
        with db.transaction() as session:
            tokens.ensure(session, "benchmark", TOKEN)
        yield db, _signed_in(app.test_client())
        db.close()


def _signed_in(client: FlaskClient) -> FlaskClient:
    origin = {"Origin": "http://localhost"}
    assert client.post("/login", data={"token": TOKEN}, headers=origin).status_code == 303
    return client


def _addresses(db: Database) -> dict[str, Callable[[int], str]]:
    """Every page and list that is read often: its name, and the address for a round."""
    with db.transaction() as session:
        names = session.scalars(select(Dataset.name).order_by(Dataset.name)).all()
        jobs = session.scalars(select(Job.id).order_by(func.md5(Job.spec["x"].astext)).limit(400))
        job_ids = [str(id_) for id_ in jobs]
        near = select(Sample.id).where(Sample.embedding.is_not(None)).limit(2000)
        sample_ids = [str(id_) for id_ in session.scalars(near)]

    def of(values: Sequence[str], stride: int) -> Callable[[int], str]:
        return lambda n: values[n * stride % len(values)]

    name, job, sample = of(["dataset-0", *names], 1), of(job_ids, 7), of(sample_ids, 31)
    first = "dataset-0"
    return {
        "/": lambda n: "/",
        "/overview/now": lambda n: "/overview/now",
        "/health": lambda n: "/health",
        "/jobs": lambda n: "/jobs",
        "/jobs?state=failed": lambda n: "/jobs?state=failed",
        "/jobs?dataset=": lambda n: f"/jobs?dataset={name(n)}",
        "/jobs/{id}": lambda n: f"/jobs/{job(n)}",
        "/jobs/{id}/live": lambda n: f"/jobs/{job(n)}/live",
        "/jobs/new": lambda n: f"/jobs/new?dataset={name(n)}",
        "/samples": lambda n: "/samples",
        "/samples?dataset=&state=": lambda n: f"/samples?dataset={first}&state=rejected",
        "/samples?dataset=&origin=": lambda n: f"/samples?dataset={name(n)}&origin=real",
        "/samples?copies=only": lambda n: f"/samples?dataset={first}&copies=only",
        "/samples?copies=none": lambda n: f"/samples?dataset={first}&copies=none",
        "/jobs/compare": lambda n: f"/jobs/compare?left={job(n)}&right={job(n + 1)}",
        "/api/v1/budgets": lambda n: "/api/v1/budgets",
        "/samples?job=": lambda n: f"/samples?job={job(n)}",
        "/samples?q= (rare)": lambda n: f"/samples?dataset={first}&q=word{n % 9973}",
        "/samples?q= (common)": lambda n: f"/samples?dataset={first}&q=raises",
        "/samples/{id}": lambda n: f"/samples/{sample(n)}",
        "/samples?reason=": lambda n: f"/samples?dataset={first}&reason=off_topic",
        "/map": lambda n: f"/map?dataset={name(n)}",
        "/playground": lambda n: f"/playground?dataset={name(n)}",
        "/experiments": lambda n: f"/experiments?dataset={name(n)}",
        "/review": lambda n: f"/review?dataset={first}",
        "/datasets/{name}": lambda n: f"/datasets/{first}",
        "/models": lambda n: "/models",
        "/settings": lambda n: "/settings",
        "/metrics": lambda n: "/metrics",
        "/api/v1/datasets": lambda n: "/api/v1/datasets",
        "/api/v1/datasets/{name}": lambda n: f"/api/v1/datasets/{first}",
        "/api/v1/datasets/{name}/samples": lambda n: f"/api/v1/datasets/{name(n)}/samples",
        "/api/v1/datasets/{name}/metrics": lambda n: f"/api/v1/datasets/{first}/metrics",
        "/api/v1/datasets/{name}/reviews": lambda n: f"/api/v1/datasets/{first}/reviews",
        "/api/v1/datasets/{name}/negatives": lambda n: f"/api/v1/datasets/{first}/negatives",
        "/api/v1/jobs": lambda n: "/api/v1/jobs",
        "/api/v1/jobs/{id}": lambda n: f"/api/v1/jobs/{job(n)}",
        "/api/v1/samples/{id}": lambda n: f"/api/v1/samples/{sample(n)}",
        "/api/v1/samples/{id}/provenance": lambda n: f"/api/v1/samples/{sample(n)}/provenance",
        "/api/v1/samples/{id}/neighbors": lambda n: f"/api/v1/samples/{sample(n)}/neighbors?k=10",
    }


def _measure(
    db: Database, client: FlaskClient, name: str, address: Callable[[int], str], rounds: int
) -> Line:
    headers = {"Accept": "text/html"}
    if name.startswith("/api"):
        headers = {"Authorization": f"Bearer {TOKEN}"}
    times, size = [], 0
    with _statements(db) as seen:
        client.get(address(0), headers=headers)
    for n in range(1, rounds + 1):
        started = time.perf_counter()
        answer = client.get(address(n), headers=headers)
        size = len(answer.data)
        times.append(1000 * (time.perf_counter() - started))
        if answer.status_code >= 400:
            raise SystemExit(f"{address(n)} answered {answer.status_code}: {answer.text[:500]}")
    p95 = statistics.quantiles(times, n=20)[-1]
    line = Line(name, statistics.median(times), p95, size / 1000, _scans(db, seen))
    _say(f"{line.address:<40}{line.median:>8.0f}{line.p95:>8.0f}  {' '.join(line.scans)}")
    return line


@contextmanager
def _statements(db: Database) -> Iterator[list[tuple[str, Any]]]:
    """The SELECTs that are run in the block, with their values."""
    seen: list[tuple[str, Any]] = []

    def note(_conn: Any, _cursor: Any, statement: str, values: Any, *_rest: Any) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "WITH")):
            seen.append((statement, values))

    event.listen(db.engine, "before_cursor_execute", note)
    yield seen
    event.remove(db.engine, "before_cursor_execute", note)


def _scans(db: Database, statements: Sequence[tuple[str, Any]]) -> list[str]:
    """Large tables that these statements read from end to end."""
    with db.engine.connect() as connection:
        rows = connection.execute(
            text("SELECT relname FROM pg_class WHERE relkind = 'r' AND reltuples > :large"),
            {"large": LARGE},
        )
        large = set(rows.scalars())
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        found: set[str] = set()
        for statement, values in statements:
            plan = driver.execute(f"EXPLAIN (FORMAT JSON) {statement}", values).fetchone()
            assert plan is not None
            found |= set(_read_whole(plan[0][0]["Plan"])) & large
    return sorted(found)


def _read_whole(plan: dict[str, Any]) -> Iterator[str]:
    if plan["Node Type"] == "Seq Scan":
        yield plan["Relation Name"]
    for part in plan.get("Plans", ()):
        yield from _read_whole(part)


def _print(lines: Sequence[Line], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"aim_ms": AIM, "pages": [asdict(line) for line in lines]}))
        return
    click.echo(f"{'address':<40}{'median':>8}{'p95':>8}{'kB':>8}  read whole")
    for line in lines:
        click.echo(
            f"{line.address:<40}{line.median:>8.0f}{line.p95:>8.0f}{line.kilobytes:>8.0f}  "
            f"{' '.join(line.scans)}"
        )
    slow = [line.address for line in lines if line.p95 > AIM]
    click.echo(f"over {AIM} ms: {', '.join(slow) or 'none'}")


def _say(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    sys.exit(main())
