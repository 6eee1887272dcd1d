"""What each broker needs of the Celery application."""

import pytest

from factory import dispatch
from factory.settings import Settings


@pytest.mark.parametrize("url", ["amqp://guest:guest@localhost//", "amqps://rabbit.example//"])
def test_rabbitmq_has_quorum_queues_and_confirms_what_it_took(url: str) -> None:
    app = dispatch.celery_app(Settings(broker_url=url))
    for name in (dispatch.GPU_QUEUE, dispatch.CPU_QUEUE):
        queue = app.amqp.queues[name]
        assert (queue.durable, queue.queue_arguments) == (True, {"x-queue-type": "quorum"})
    assert app.conf.broker_transport_options["confirm_publish"] is True


def test_a_worker_on_redis_fetches_nothing_that_it_cannot_begin() -> None:
    """What a dead worker had fetched would be redelivered after the visibility timeout."""
    app = dispatch.celery_app(Settings(broker_url="redis://localhost:6379/0"))
    assert app.conf.worker_disable_prefetch is True
    assert app.amqp.queues[dispatch.GPU_QUEUE].queue_arguments is None
