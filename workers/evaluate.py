"""What a CPU worker measures: samples beside the dataset's real ones, and rounds of sweeps."""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

from sqlalchemy.orm import Session

from factory import __version__, outbox, samples, shards
from factory.errors import Invalid
from factory.spec import EvaluateSpec, SweepSpec, job_spec
from factory.tables import Job, Sample
from workers.embed import CHUNK
from workers.embedding import Embedder
from workers.leases import Hold
from workers.metrics import Row, evaluate, reference
from workers.shard_worker import ShardWorker
from workers.sweep import SweepRun

NOTE_SECONDS = 1.0  # how often progress is stored
LIBRARIES = ("mauve-text", "numpy", "sacrebleu", "scikit-learn")


@dataclass
class Evaluator(ShardWorker):
    """Works on the shards of evaluate jobs and sweeps. `embedder` loads the embedding model."""

    kind = "cpu"
    task = outbox.MEASURE

    embedder: Callable[[], Embedder] = field(kw_only=True)

    def _work(self, hold: Hold) -> None:
        software = {"factory": __version__, **{name: version(name) for name in LIBRARIES}}
        self._begin(hold.lease, {"device": "cpu", "software": software})
        job = self.database.retrying(lambda session: session.get_one(Job, hold.lease.job_id))
        spec = job_spec.validate_python(job.spec)
        if isinstance(spec, EvaluateSpec):
            result = self._evaluate(hold, job, spec)
            self.database.retrying(lambda session: _keep(session, hold, job.id, result))
        elif isinstance(spec, SweepSpec):
            SweepRun(self.database, hold, job.id, spec).run()

    def _evaluate(self, hold: Hold, job: Job, spec: EvaluateSpec) -> dict[str, Any]:
        made, real = self._rows(hold, job, spec)
        natural = reference(spec.metrics, len(made), real, spec.seed, lambda _: hold.check())
        note = self._note(hold, len(spec.metrics))
        measures = evaluate(spec.metrics, made, real, spec.seed, note)
        return {
            "samples": len(made),
            "real": len(real),
            "measures": [asdict(measure) for measure in measures],
            "reference": [asdict(measure) for measure in natural],
        }

    def _rows(self, hold: Hold, job: Job, spec: EvaluateSpec) -> tuple[list[Row], list[Row]]:
        """The samples to measure, and real ones. Raises Invalid when there is nothing to measure.

        Twice as many real ones at most: half of them tells what is natural.
        """
        made = self._embedded(
            hold,
            lambda session: samples.chosen(
                session,
                job.dataset_id,
                origin=spec.origin,
                states=spec.states,
                job_id=spec.job,
                limit=spec.limit,
                seed=spec.seed,
            ),
        )
        real = self._embedded(
            hold,
            lambda session: samples.chosen(
                session, job.dataset_id, origin="real", limit=2 * spec.limit, seed=spec.seed
            ),
        )
        if not made:
            raise Invalid(f"Dataset '{spec.dataset}' holds no such samples. Make some first.")
        return made, real

    def _embedded(self, hold: Hold, find: Callable[[Session], Sequence[Sample]]) -> list[Row]:
        """What is found, as it is stored: those that have no embedding yet get one first."""
        missing = self.database.retrying(
            lambda session: [(s.id, s.text) for s in find(session) if s.embedding is None]
        )
        for start in range(0, len(missing), CHUNK):
            hold.check()
            self._embed(missing[start : start + CHUNK])
        return self.database.retrying(lambda session: _as_rows(find(session)))

    def _embed(self, found: Sequence[tuple[uuid.UUID, str]]) -> None:
        vectors = self.embedder().embed_texts([text for _, text in found])
        embedded = list(zip((id_ for id_, _ in found), vectors, strict=True))
        self.database.retrying(lambda session: samples.set_embeddings(session, embedded))

    def _note(self, hold: Hold, planned: int) -> Callable[[int], None]:
        """Stores how many measures are taken, now and then. Raises LeaseLost, Stopped."""
        noted = time.monotonic()

        def note(done: int) -> None:
            nonlocal noted
            hold.check()
            if time.monotonic() - noted < NOTE_SECONDS:
                return
            noted = time.monotonic()
            progress = {"done": done, "planned": planned}
            self.database.retrying(lambda session: _store(session, hold, progress))

        return note


def _as_rows(found: Sequence[Sample]) -> list[Row]:
    return [
        Row(s.text, s.embedding, s.state, s.audit, s.label)
        for s in found
        if s.embedding is not None
    ]


def _keep(session: Session, hold: Hold, job_id: uuid.UUID, result: dict[str, Any]) -> None:
    hold.renew(session)
    session.get_one(Job, job_id).result = result


def _store(session: Session, hold: Hold, progress: dict[str, int]) -> None:
    hold.renew(session)
    shards.note_progress(session, hold.lease, progress)
