"""The Celery application, as everyone who sends needs it: names and queues, no task code."""

import uuid

from celery import Celery

from factory.settings import Settings

GPU_QUEUE = "gpu"
CPU_QUEUE = "cpu"


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
        worker_hijack_root_logger=False,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=3,
        broker_transport_options={
            "socket_connect_timeout": 3,
            "socket_timeout": 10,
            "visibility_timeout": 3600,
        },
    )
    return app


def send(app: Celery, task: str, key: uuid.UUID) -> None:
    """Publish one wake-up. Raises kombu's OperationalError when the broker is away."""
    app.send_task(task, args=[str(key)], retry=False)


def ping(app: Celery) -> None:
    """Raise unless the broker answers."""
    with app.connection_for_write(connect_timeout=3) as connection:
        connection.ensure_connection(max_retries=1, timeout=3)
