"""Celery entry of GPU workers: ids in, rows out.

    celery -A workers.gpu worker -Q gpu        (what `factory worker gpu` runs)

One child per device; models are touched only in the child. SIGTERM lets the batch in hand be
stored, hands the shard back and ends.
"""

import os
import signal
import uuid
from typing import Any

from billiard import active_children
from celery.signals import worker_process_init, worker_shutting_down

from factory import outbox
from workers import process
from workers.gpu_worker import GpuWorker

worker = process.start()
app = worker.app
gpu = GpuWorker(worker.settings, worker.database)


@worker.task(outbox.RUN_SHARD)
def run_shard(shard_id: str) -> None:
    """Work on one shard."""
    gpu.run_shard(uuid.UUID(shard_id))


@worker.task(outbox.SERVE)
def serve(request_id: str) -> None:
    """Answer everyone who waits, this request among them."""
    gpu.desk.serve_all()


def _in_child(**_: Any) -> None:
    signal.signal(signal.SIGTERM, lambda *_: gpu.shutdown.set())


def _in_parent(**_: Any) -> None:
    for child in active_children():
        os.kill(child.pid, signal.SIGTERM)


worker_process_init.connect(_in_child, weak=False)
worker_shutting_down.connect(_in_parent, weak=False)
