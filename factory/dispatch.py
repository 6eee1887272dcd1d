"""The Celery application, as everyone who sends needs it: names and queues, no task code."""

import uuid
from typing import Any

from celery import Celery

from factory.settings import Settings

GPU_QUEUE = "gpu"
CPU_QUEUE = "cpu"

REDIS: dict[str, Any] = {
    "worker_disable_prefetch": True,  # what a dead worker had fetched would be lost for long
    "broker_transport_options": {
        "socket_connect_timeout": 3,
        "socket_timeout": 10,
        "visibility_timeout": 3600,
    },
}
RABBITMQ: dict[str, Any] = {
    "task_create_missing_queue_type": "quorum",
    "broker_heartbeat": 10,
    "broker_transport_options": {"confirm_publish": True},
}


def celery_app(settings: Settings) -> Celery:
    """A Celery application for this broker.

    A message is only a wake-up that carries an id: acknowledged early, no results kept, and
    Postgres owns the work. It may be lost or repeated without harm.
    """
    app = Celery("factory", broker=settings.broker_url, set_as_current=False)
    app.conf.update(
        task_ignore_result=True,
        task_acks_late=False,
        task_serializer="json",
        accept_content=["json"],
        task_routes={
            "workers.gpu.*": {"queue": GPU_QUEUE},
            "workers.cpu.*": {"queue": CPU_QUEUE},
        },
        task_create_missing_queues=True,
        worker_prefetch_multiplier=1,
        worker_proc_alive_timeout=120,  # a new child imports torch first; the default is 4 s
        worker_lost_wait=0.5,  # a child that died gives no result: its place is free at once
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=3,
        **(RABBITMQ if settings.broker_url.startswith("amqp") else REDIS),
    )
    return app


def send(app: Celery, task: str, key: uuid.UUID) -> None:
    """Publish one wake-up. Raises kombu's OperationalError when the broker is away."""
    app.send_task(task, args=[str(key)], retry=False)


def ping(app: Celery) -> None:
    """Raise unless the broker answers."""
    with app.connection_for_write(connect_timeout=3) as connection:
        connection.ensure_connection(max_retries=1, timeout=3)
