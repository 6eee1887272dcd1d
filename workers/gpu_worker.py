"""What a GPU worker does: make samples and train experts, and answer who waits."""

import uuid
from dataclasses import dataclass

import torch
from sqlalchemy.orm import Session

from factory.errors import ModelError, TryAgain
from factory.samples import MadeBy
from factory.shards import Lease
from factory.spec import GenerateSpec, TrainSpec, job_spec
from factory.tables import Job, ModelPair
from workers import embedding, layout
from workers.embedding import Embedder
from workers.generate import ShardRun
from workers.interactive import Desk
from workers.leases import Hold
from workers.levers.acting import Bench
from workers.pairs import PairCache, device_of, software
from workers.shard_worker import ShardWorker
from workers.train import TrainRun

OUT_OF_MEMORY = (
    "The device's memory is full with a single row. Use a smaller model or a larger device, "
    "fewer negatives, or a smaller sampling.max_new_tokens."
)
KV = "joint"  # negatives are encoded together, in one context


@dataclass
class GpuWorker(ShardWorker):
    """One device's worker: its models, and what it is asked to do."""

    kind = "gpu"

    def __post_init__(self) -> None:
        self._embedder: Embedder | None = None
        self._slots: dict[str, int] = {}  # of pairs for which the settings' were too many
        self.pairs = PairCache(self.settings, self.database)
        self.bench = Bench(self.database, self.settings, self._embedding_model)
        self.desk = Desk(self.database, self.pairs, self.settings.stall_seconds, self.bench)

    def run_shard(self, shard_id: uuid.UUID) -> None:
        """Answer who waits, then work on the shard."""
        self.desk.serve_all()
        super().run_shard(shard_id)

    def _embedding_model(self) -> Embedder:
        self._embedder = self._embedder or embedding.load(self.settings)
        return self._embedder

    def _attempt(self, lease: Lease) -> bool:
        again = super()._attempt(lease)
        if again:
            self.pairs.free_memory()
        return again

    def _work(self, hold: Hold) -> None:
        try:
            self._make(hold)
        except torch.OutOfMemoryError as error:
            raise ModelError(f"{OUT_OF_MEMORY} {error}") from error

    def _make(self, hold: Hold) -> None:
        job, model = self.database.retrying(lambda s: _job_and_model(s, hold.lease))
        spec = job_spec.validate_python(job.spec)
        if isinstance(spec, GenerateSpec):
            assert model is not None, "a generate job names a model"  # noqa: S101
            self._generate(hold, job, spec, model)
        elif isinstance(spec, TrainSpec):
            device = device_of(self.settings)
            self._begin(hold.lease, {"device": device, "software": software()})
            TrainRun(self.database, self.settings, hold, job.id, spec, device).run()

    def _generate(self, hold: Hold, job: Job, spec: GenerateSpec, model: ModelPair) -> None:
        """Raises TryAgain when fewer rows side by side may fit into the device's memory."""
        pair = self.pairs.load(model)
        slots = self._slots.get(model.name, self.settings.slots)
        made_on = pair.environment(slots)
        starting = hold.lease.start == 0
        acting = self.bench.ready(job.dataset_id, spec, pair, starting=starting)
        levers = {"levers": list(acting.uses)}
        attempt_id = self._begin(hold.lease, {"layout": layout.NAME, "kv": KV, **made_on, **levers})
        by = MadeBy(job.dataset_id, job.id, hold.lease.shard_id, attempt_id)
        try:
            ShardRun(self.database, self.settings, hold, spec, pair, by, slots, acting).run()
        except torch.OutOfMemoryError as error:
            if slots == 1:
                raise
            self._slots[model.name] = slots // 2
            told = f"{slots} slots do not fit into {made_on['device']}: {slots // 2} from now on."
            raise TryAgain(told) from error


def _job_and_model(session: Session, lease: Lease) -> tuple[Job, ModelPair | None]:
    job = session.get_one(Job, lease.job_id)
    return job, session.get(ModelPair, job.model_id) if job.model_id else None
