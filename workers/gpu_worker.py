"""What a GPU worker does: make samples and train experts, and answer who waits."""

import uuid
from dataclasses import dataclass

import torch
from sqlalchemy.orm import Session

from factory import log, outbox
from factory.errors import ModelError, TryAgain
from factory.samples import MadeBy
from factory.shards import Lease
from factory.spec import GenerateSpec, ProbeSpec, TrainSpec, job_spec
from factory.tables import Job, ModelPair
from workers import embedding, layout
from workers.embedding import Embedder
from workers.generate import Composer, ShardRun
from workers.interactive import Desk
from workers.leases import Hold
from workers.levers.bench import Bench
from workers.pairs import LoadedPair, PairCache, device_of, free_bytes, software
from workers.probe import ProbeRun
from workers.shard_worker import ShardWorker
from workers.train import TrainRun

OUT_OF_MEMORY = (
    "The device's memory is full with a single row. Use a smaller model or a larger device, "
    "fewer negatives, or a smaller sampling.max_new_tokens."
)
logger = log.get(__name__)


@dataclass
class GpuWorker(ShardWorker):
    """One device's worker: its models, and what it is asked to do."""

    kind = "gpu"
    task = outbox.RUN_SHARD

    def __post_init__(self) -> None:
        self._embedder: Embedder | None = None
        self._slots: dict[str, int] = {}  # of pairs for which what was tried was too many
        self._planned: tuple[uuid.UUID, int] | None = None  # a job, and its slots
        self.pairs = PairCache(self.settings, self.database)
        self.bench = Bench(self.database, self.settings, self._embedding_model)
        stall = self.settings.stall_seconds
        self.desk = Desk(self.database, self.pairs, stall, self.bench, self.shutdown)

    def _run_to_end(self, shard_id: uuid.UUID) -> None:
        """Answer who waits, then work on the shard."""
        self.desk.serve_all()
        super()._run_to_end(shard_id)

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
        elif isinstance(spec, ProbeSpec):
            assert model is not None, "a probe job names a model"  # noqa: S101
            pair = self.pairs.load(model)
            self._begin(hold.lease, {"layout": layout.NAME, **pair.environment(1)})
            ProbeRun(self.database, hold, job.id, spec, pair).run()
        elif isinstance(spec, TrainSpec):
            device = device_of(self.settings)
            self.pairs.free_memory()
            self._begin(hold.lease, {"device": device, "software": software()})
            TrainRun(self.database, self.settings, hold, job.id, spec, device).run()

    def _generate(self, hold: Hold, job: Job, spec: GenerateSpec, model: ModelPair) -> None:
        """Raises TryAgain when fewer rows side by side may fit into the device's memory."""
        pair = self.pairs.load(model)
        starting = hold.lease.start == 0
        acting = self.bench.ready(
            job.dataset_id, spec, pair, watch=hold.check, job_id=job.id, starting=starting
        )
        acting.attach(pair.models)
        slots = self._slots.get(model.name) or self._wanted_slots(job, spec, pair)
        made_on = pair.environment(slots)
        levers = {"levers": list(acting.uses)}
        kv = Composer(spec, pair).decoder(slots, trace=False).kv
        attempt_id = self._begin(hold.lease, {"layout": layout.NAME, "kv": kv, **made_on, **levers})
        by = MadeBy(job.dataset_id, job.id, hold.lease.shard_id, attempt_id, spec.label)
        try:
            ShardRun(self.database, self.settings, hold, spec, pair, by, slots, acting).run()
        except torch.OutOfMemoryError as error:
            if slots == 1:
                raise
            self._slots[model.name] = slots // 2
            told = f"{slots} slots do not fit into {made_on['device']}: {slots // 2} from now on."
            raise TryAgain(told) from error

    def _wanted_slots(self, job: Job, spec: GenerateSpec, pair: LoadedPair) -> int:
        """The settings', or what fits: planned once for a job, from the memory that is free."""
        if self.settings.slots != "auto":
            return self.settings.slots
        if self._planned is None or self._planned[0] != job.id:
            self.pairs.free_memory()
            free = free_bytes(pair.models.device)
            self._planned = job.id, Composer(spec, pair).slots(free)
            logger.info("slots.planned", job=str(job.id), free_bytes=free, slots=self._planned[1])
        return self._planned[1]


def _job_and_model(session: Session, lease: Lease) -> tuple[Job, ModelPair | None]:
    job = session.get_one(Job, lease.job_id)
    return job, session.get(ModelPair, job.model_id) if job.model_id else None
