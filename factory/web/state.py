"""What every request of one web process shares."""

from dataclasses import dataclass, field
from threading import BoundedSemaphore
from typing import cast

from celery import Celery
from flask import current_app

from factory.db import Database
from factory.settings import Settings
from factory.web.metrics import Metrics

THREADS = 16  # of the web process
WAITING = 8  # of them may wait for something: event streams, answers of a GPU worker
KEY = "factory"


@dataclass(frozen=True)
class State:
    """The settings, the database, the broker, and how many requests may wait."""

    settings: Settings
    db: Database
    broker: Celery
    metrics: Metrics
    waiting: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(WAITING))


def current() -> State:
    """The state of the application that serves this request."""
    return cast(State, current_app.extensions[KEY])
