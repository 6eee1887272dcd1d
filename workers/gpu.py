"""Celery entry of GPU workers: ids in, rows out.

    celery -A workers.gpu worker -Q gpu        (what `factory worker gpu` runs)

One child per device; models are touched only in the child. SIGTERM lets the batch in hand be
stored, hands the shard back and ends.
"""

import uuid

from factory import outbox
from workers import process
from workers.gpu_worker import GpuWorker

worker = process.start(GpuWorker.kind)
worker.watch_consumption(outbox.RUN_SHARD, outbox.SERVE)
app = worker.app
gpu = GpuWorker(worker.settings, worker.database, worker.shutdown)


@worker.shard_task(outbox.RUN_SHARD)
def run_shard(shard_id: str) -> None:
    """Work on one shard."""
    gpu.run_shard(uuid.UUID(shard_id))


@worker.task(outbox.SERVE)
def serve(request_id: str) -> None:
    """Answer everyone who waits, this request among them."""
    gpu.desk.serve_all()
