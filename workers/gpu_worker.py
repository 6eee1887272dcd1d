"""What a GPU worker does: make samples and train experts, and answer who waits."""

import uuid
from dataclasses import dataclass

from factory.samples import MadeBy
from factory.spec import GenerateSpec, TrainSpec, job_spec
from factory.tables import Job, ModelPair
from workers import layout
from workers.generate import ShardRun
from workers.interactive import Desk
from workers.leases import Hold
from workers.pairs import PairCache, device_of, software
from workers.shard_worker import ShardWorker
from workers.train import TrainRun

KV = "joint"  # negatives are encoded together, in one context


@dataclass
class GpuWorker(ShardWorker):
    """One device's worker: its models, and what it is asked to do."""

    kind = "gpu"

    def __post_init__(self) -> None:
        self.pairs = PairCache(self.settings, self.database)
        self.desk = Desk(self.database, self.pairs)

    def run_shard(self, shard_id: uuid.UUID) -> None:
        """Answer who waits, then work on the shard."""
        self.desk.serve_all()
        super().run_shard(shard_id)

    def _work(self, hold: Hold) -> None:
        with self.database.transaction() as session:
            job = session.get_one(Job, hold.lease.job_id)
            model = session.get(ModelPair, job.model_id) if job.model_id else None
        spec = job_spec.validate_python(job.spec)
        if isinstance(spec, GenerateSpec):
            assert model is not None, "a generate job names a model"  # noqa: S101
            self._generate(hold, job, spec, model)
        elif isinstance(spec, TrainSpec):
            device = device_of(self.settings)
            self._begin(hold.lease, {"device": device, "software": software()})
            TrainRun(self.database, self.settings, hold, job.id, spec, device).run()

    def _generate(self, hold: Hold, job: Job, spec: GenerateSpec, model: ModelPair) -> None:
        pair = self.pairs.load(model)
        made_on = pair.environment(self.settings.slots)
        attempt_id = self._begin(hold.lease, {"layout": layout.NAME, "kv": KV, **made_on})
        by = MadeBy(job.dataset_id, job.id, hold.lease.shard_id, attempt_id)
        ShardRun(self.database, self.settings, hold, spec, pair, by).run()
