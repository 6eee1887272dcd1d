"""Celery entry of GPU workers: ids in, rows out.

    celery -A workers.gpu worker -Q gpu        (what `factory worker gpu` runs)

One child per device; models are touched only in the child. SIGTERM lets the batch in hand be
stored, hands the shard back and ends.
"""

import os
import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from billiard import active_children
from celery.signals import worker_shutting_down

from factory import outbox
from workers import process
from workers.gpu_worker import GpuWorker

worker = process.start()
worker.watch_consumption(outbox.RUN_SHARD, outbox.SERVE)
app = worker.app
gpu = GpuWorker(worker.settings, worker.database)


@worker.shard_task(outbox.RUN_SHARD, GpuWorker.kind)
def run_shard(shard_id: str) -> None:
    """Work on one shard."""
    with _heeding_sigterm():
        gpu.run_shard(uuid.UUID(shard_id))


@worker.task(outbox.SERVE)
def serve(request_id: str) -> None:
    """Answer everyone who waits, this request among them."""
    with _heeding_sigterm():
        gpu.desk.serve_all()


@contextmanager
def _heeding_sigterm() -> Iterator[None]:
    """SIGTERM lets this child come to a good end. Set for each task: the pool puts a handler of
    its own, which ends the child at once, in the place of one that is set as the child starts."""
    before = signal.signal(signal.SIGTERM, lambda *_: gpu.shutdown.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell_children(**_: Any) -> None:
    for child in active_children():
        os.kill(child.pid, signal.SIGTERM)


worker_shutting_down.connect(_tell_children, weak=False)
