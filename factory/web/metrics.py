"""Prometheus metrics: requests of this process, and counts from the database."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from factory import degraded, pushes, tallies
from factory.db import Database
from factory.errors import Unavailable
from factory.settings import Settings
from factory.tables import Job, Outbox


class Metrics:
    """The registry of one web process."""

    def __init__(self, db: Database, settings: Settings) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "factory_http_requests",
            "Requests",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "factory_http_request_seconds",
            "Seconds until the answer began",
            ("method", "route"),
            registry=self.registry,
        )
        self.registry.register(_Stored(db, settings))

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request. `route` is the rule, not the path, so that there are few of them."""
        self._requests.labels(method, route, status).inc()
        self._seconds.labels(method, route).observe(seconds)


@dataclass(eq=False)
class _Stored(Collector):
    """Counts rows whenever Prometheus asks; `factory_database_up` is 0 when it cannot."""

    db: Database
    settings: Settings

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return ()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        try:
            with self.db.transaction() as session:
                families = [
                    _jobs(session),
                    _samples(session),
                    *_owed(session),
                    *_degraded(session, self.settings),
                ]
        except Unavailable:
            families = []
        up = 1 if families else 0
        yield GaugeMetricFamily("factory_database_up", "Whether the database answers", value=up)
        yield from families


def _jobs(session: Session) -> GaugeMetricFamily:
    counted = session.execute(select(Job.state, func.count()).group_by(Job.state))
    return _by_state("jobs", dict(counted.tuples().all()))


def _samples(session: Session) -> GaugeMetricFamily:
    return _by_state("samples", tallies.by(tallies.read(session, "sample"), "state"))


def _by_state(name: str, numbers: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"factory_{name}", f"How many {name} there are", labels=["state"])
    for state, number in numbers.items():
        family.add_metric([state], number)
    return family


def _owed(session: Session) -> Iterator[GaugeMetricFamily]:
    age = func.extract("epoch", func.clock_timestamp() - func.min(Outbox.created_at))
    count, oldest = session.execute(select(func.count(), func.coalesce(age, 0))).one()
    yield GaugeMetricFamily("factory_outbox_wake_ups", "Wake-ups that are owed", value=count)
    yield GaugeMetricFamily(
        "factory_outbox_oldest_seconds", "Age of the oldest wake-up", value=float(oldest)
    )


def _degraded(session: Session, settings: Settings) -> Iterator[GaugeMetricFamily]:
    found = degraded.label_studio(session, settings)
    family = GaugeMetricFamily(
        "factory_degraded", "1 while samples are made without this part", labels=["part"]
    )
    family.add_metric(["label_studio"], int(found is not None))
    yield family
    since = found.since.timestamp() if found and found.since else 0
    family = GaugeMetricFamily(
        "factory_degraded_since_seconds", "Unix time of its first failure, or 0", labels=["part"]
    )
    family.add_metric(["label_studio"], since)
    yield family
    waiting = pushes.number_waiting(session)
    yield GaugeMetricFamily("factory_pushes_waiting", "Samples that wait to be sent", value=waiting)
