"""Short ways to put datasets, jobs and samples into a real database."""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text

from factory import datasets, jobs, samples, shards
from factory.db import Database
from factory.ids import new_id
from factory.samples import Failed, Made, MadeBy
from factory.spec import ReviewSpec, job_spec
from factory.tables import Dataset, Job, ModelPair, Sample


@dataclass
class World:
    """A database with one dataset and one model pair, under names of their own."""

    database: Database
    dataset: Dataset
    model: ModelPair
    attempts: dict[uuid.UUID, uuid.UUID] = field(default_factory=dict)

    def submit(self, count: int, size: int = 4, **spec: Any) -> Job:
        body = {
            "kind": "generate",
            "dataset": self.dataset.name,
            "model": self.model.name,
            "count": count,
            "shard_size": size,
            **spec,
        }
        with self.database.transaction() as session:
            valid = job_spec.validate_python(body)
            return jobs.submit(session, valid, self.dataset, self.model, request=body)[0]

    def shards_of(self, job: Job) -> list[uuid.UUID]:
        with self.database.transaction() as session:
            return [shard.id for shard in jobs.shards_of(session, job.id)]

    def job(self, job: Job) -> Job:
        with self.database.transaction() as session:
            return jobs.get(session, job.id)

    def lease(self, shard_id: uuid.UUID, worker: str = "w", seconds: float = 60) -> shards.Lease:
        with self.database.transaction() as session:
            lease = shards.claim(session, shard_id, worker, seconds)
            assert lease is not None
            self.begin(session, lease)
        return lease

    def begin(self, session: Any, lease: shards.Lease) -> None:
        environment = {"device": "cpu", "slots": 4}
        self.attempts[lease.shard_id] = shards.begin_attempt(session, lease, "w", environment)

    def made_by(self, lease: shards.Lease) -> MadeBy:
        attempt = self.attempts[lease.shard_id]
        return MadeBy(self.dataset.id, lease.job_id, lease.shard_id, attempt)

    def store(
        self, lease: shards.Lease, rows: Sequence[Made | Failed], *, push: bool = False
    ) -> None:
        with self.database.transaction() as session:
            shards.renew(session, lease, 60)
            samples.store(session, self.made_by(lease), rows, ReviewSpec(push=push))

    def finish(self, lease: shards.Lease) -> Job:
        with self.database.transaction() as session:
            shards.finish(session, lease)
            return jobs.finish_if_done(session, lease.job_id)

    def generated(self, texts: Sequence[str], *, push: bool = False) -> list[Sample]:
        """Samples of a finished job, one for each text."""
        job = self.submit(len(texts), len(texts))
        lease = self.lease(self.shards_of(job)[0])
        self.store(lease, [made(i, text) for i, text in enumerate(texts)], push=push)
        self.finish(lease)
        with self.database.transaction() as session:
            page = samples.list_page(session, self.dataset.id, job_id=job.id, limit=len(texts))
            return sorted(page, key=lambda sample: sample.ordinal or 0)

    def set(self, sample: Sample, **columns: Any) -> None:
        with self.database.transaction() as session:
            stored = session.get_one(Sample, sample.id)
            for name, value in columns.items():
                setattr(stored, name, value)

    def expire(self, lease: shards.Lease) -> None:
        """Let a lease run out, as if its worker had not been heard of for long."""
        with self.database.transaction() as session:
            session.execute(
                text(
                    "UPDATE shards SET lease_until = clock_timestamp() - interval '1 s' "
                    "WHERE id = :id AND state = 'leased'"
                ),
                {"id": lease.shard_id},
            )


def made(ordinal: int, text: str = "", **fields: Any) -> Made:
    values = {"seed": ordinal + 100, "token_ids": (5, 6, 7), "finish_reason": "eos"}
    values |= {"audit": False, "text": text or f"text {ordinal}"}
    return Made(ordinal=ordinal, **{**values, **fields})


def vector(*leading: float) -> list[float]:
    """A vector of 384 dimensions with these in front."""
    return [*leading, *([0.0] * (384 - len(leading)))]


def add_real(world: World, texts: Sequence[str]) -> list[Sample]:
    """Real samples of a world's dataset."""
    lines = [json.dumps({"text": text}).encode() for text in texts]
    with world.database.transaction() as session:
        datasets.import_lines(session, world.dataset, lines)
        page = samples.list_page(session, world.dataset.id, origin="real", limit=10_000)
    by_text = {sample.text: sample for sample in page}
    return [by_text[text] for text in texts]


def world_in(database: Database) -> World:
    """A fresh dataset and model pair in this database."""
    name = f"d{new_id().hex}"
    with database.transaction() as session:
        dataset = datasets.create(session, name, "Write a line:")
        model = ModelPair(name=f"m{name[1:]}", base="/models/base", expert="/models/expert")
        session.add(model)
    return World(database, dataset, model)
