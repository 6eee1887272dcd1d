"""The pulse of the factory: publishes owed wake-ups, frees shards whose workers died, has reviews
reconciled, and deletes what is not needed any more. Any number may run side by side.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

import psycopg
from celery import Celery
from kombu.exceptions import OperationalError as BrokerError
from sqlalchemy import select

from factory import dispatch, jobs, log, outbox, requests, reviews, shards, tallies
from factory.db import Database
from factory.errors import Unavailable
from factory.settings import Settings
from factory.tables import Dataset

PRUNE_SECONDS = 3600.0
TICK_SECONDS = 1.0  # how long a lost NOTIFY can stay unseen
AWAY_SECONDS = 0.25  # between two tries to reach a database that is away
SHORTEST_TICK = 0.05
BATCH = 100

logger = log.get(__name__)


@dataclass
class Beat:
    """One process's pulse. `stop` ends it after the tick it is in."""

    settings: Settings
    db: Database
    app: Celery
    stop: threading.Event = field(default_factory=threading.Event)
    _reaps_from: float = (
        0.0  # time.monotonic(): before, workers may renew what an outage let run out
    )

    def run(self) -> None:
        """Tick until stopped: at each NOTIFY, once a second, and when a lease runs out."""
        reconciling = _Every(self.settings.reconcile_seconds)
        pruning = _Every(PRUNE_SECONDS)
        while not self.stop.is_set():
            try:
                with _listening(self.settings.database_url) as wait:
                    while not self.stop.is_set():
                        pause = self.tick()
                        if reconciling.is_due():
                            self.owe_reconciling()
                        if pruning.is_due():
                            self.prune()
                        wait(pause)
            except (Unavailable, psycopg.Error) as error:
                logger.warning("beat.database_unavailable", error=str(error))
                self.stop.wait(AWAY_SECONDS)
                self._reaps_from = time.monotonic() + 2 * self.settings.heartbeat_seconds

    def tick(self) -> float:
        """Reap, then publish what is due; returns the seconds until the next tick."""
        pause = self.reap() if time.monotonic() >= self._reaps_from else TICK_SECONDS
        while len(self.publish()) == BATCH and not self.stop.is_set():
            pass
        return pause

    def publish(self) -> Sequence[outbox.WakeUp]:
        """Send one batch of due wake-ups; what cannot be sent stays due."""
        try:
            with self.db.transaction() as session:
                due = outbox.take_due(
                    session, limit=BATCH, retry_seconds=self.settings.outbox_retry_seconds
                )
                for wake_up in due:
                    dispatch.send(self.app, wake_up.task, wake_up.key)
        except BrokerError as error:
            logger.warning("beat.broker_unavailable", error=str(error))
            self.stop.wait(TICK_SECONDS)
            return ()
        return due

    def reap(self) -> float:
        """Free shards whose lease ran out, and end jobs that this completes. Returns the seconds
        until another lease can run out, within TICK_SECONDS."""
        with self.db.transaction() as session:
            for job_id in shards.reap(session, self.settings.shard_attempts):
                logger.warning("beat.lease_expired", job=str(job_id))
                jobs.finish_if_done(session, job_id)
            left = shards.seconds_to_expiry(session)
        return TICK_SECONDS if left is None else max(SHORTEST_TICK, min(left, TICK_SECONDS))

    def owe_reconciling(self) -> None:
        """Have the reviews of every dataset with a project compared with Label Studio."""
        with self.db.transaction() as session:
            reviewed = select(Dataset.id).where(Dataset.label_studio_project.is_not(None))
            outbox.owe(session, outbox.RECONCILE, *session.scalars(reviewed))

    def prune(self) -> None:
        """Delete what was answered or handled long ago; add up what was counted."""
        days = self.settings.retention_days
        with self.db.transaction() as session:
            answered, handled = requests.prune(session, days), reviews.prune_events(session, days)
            tallies.compact(session)
        if answered or handled:
            logger.info("beat.pruned", requests=answered, events=handled)


def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT."""
    beat = Beat(settings, Database(settings.database_url), dispatch.celery_app(settings))

    def end(signum: int, frame: FrameType | None) -> None:
        beat.stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    logger.info("beat.started")
    beat.run()
    logger.info("beat.stopped")


class _Every:
    """Due at first, then each `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next = 0.0

    def is_due(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._seconds
        return True


@contextmanager
def _listening(database_url: str) -> Iterator[Callable[[float], None]]:
    """A function that waits for a NOTIFY on the outbox's channel, at most some seconds."""
    url = database_url.replace("postgresql+psycopg://", "postgresql://", 1)
    with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
        connection.execute(f"LISTEN {outbox.CHANNEL}")

        def wait(seconds: float) -> None:
            for _ in connection.notifies(timeout=seconds, stop_after=1):
                pass

        yield wait
