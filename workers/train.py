"""Runs a train job: an expert from a dataset's own samples, registered as a model pair."""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from factory import models, shards
from factory.db import Database
from factory.errors import Conflict
from factory.settings import Settings
from factory.spec import DEMO_BASE, TrainSpec
from factory.tables import Dataset, Job, ModelPair, Sample
from workers.leases import Hold
from workers.training.base import BaseConfig, train_base
from workers.training.expert import ExpertConfig, heldout, train_expert
from workers.training.recipe import Trained

NOTE_SECONDS = 1.0  # how often progress is stored
LOSSES = 200  # points of the loss that are kept; of more, every second one


@dataclass
class TrainRun:
    """One attempt at one train job."""

    database: Database
    settings: Settings
    hold: Hold
    job_id: uuid.UUID
    spec: TrainSpec
    device: str
    _noted: float = field(default=0.0, init=False)
    _losses: list[tuple[int, float]] = field(default_factory=list, init=False)

    def run(self) -> None:
        """Train, register the pair and keep the result. Raises LeaseLost, Stopped, FactoryError."""
        before = BaseConfig().steps if self.spec.base == DEMO_BASE else 0
        planned = before + self.spec.steps
        base = self._base(self._note(0, planned))
        prompt, ids, texts = self._samples()
        expert = self._expert(base, prompt, texts, self._note(before, planned))
        out = [str(ids[place]) for place in sorted(heldout(len(ids), self._config))]
        self.database.retrying(lambda session: self._keep(session, base, expert, out))

    def _keep(self, session: Session, base: Path, expert: Trained, out: Sequence[str]) -> None:
        """Register the pair and note it as the job's result, under the lease."""
        self.hold.renew(session)
        pair = self._register(session, base, expert.path)
        job = session.get_one(Job, self.job_id)
        job.model_id = pair.id
        job.result = _result(pair, expert) | {"heldout": list(out)}

    def _base(self, note: Callable[[int, int, float], None]) -> Path:
        if self.spec.base != DEMO_BASE:
            return Path(self.spec.base)
        return train_base(BaseConfig(), self._folder / "base", note).path

    def _expert(
        self,
        base: Path,
        prompt: str,
        texts: Sequence[str],
        note: Callable[[int, int, float], None],
    ) -> Trained:
        return train_expert(
            base,
            texts,
            self._folder / "expert",
            prompt=prompt,
            config=self._config,
            device=self.device,
            on_progress=note,
        )

    @property
    def _config(self) -> ExpertConfig:
        return ExpertConfig(
            method=self.spec.method,
            seed=self.spec.seed,
            steps=self.spec.steps,
            learning_rate=self.spec.learning_rate,
            rank=self.spec.rank,
            lora_alpha=2 * self.spec.rank,
        )

    def _samples(self) -> tuple[str, list[uuid.UUID], list[str]]:
        """The dataset's prompt, and the ids and texts that stand for it: real ones and
        corrections."""
        return self.database.retrying(lambda session: _material(session, self.spec.dataset))

    def _note(self, before: int, planned: int) -> Callable[[int, int, float], None]:
        def note(done: int, total: int, loss: float) -> None:
            self.hold.check()
            now = time.monotonic()
            if now - self._noted < NOTE_SECONDS:
                return
            self._noted = now
            self._losses.append((before + done, round(loss, 4)))
            if len(self._losses) > LOSSES:
                del self._losses[1::2]
            progress = {"done": before + done, "planned": planned, "losses": self._losses}
            self.database.retrying(lambda session: self._store(session, progress))

        return note

    def _store(self, session: Session, progress: dict[str, Any]) -> None:
        self.hold.renew(session)
        shards.note_progress(session, self.hold.lease, progress)

    def _register(self, session: Session, base: Path, expert: Path) -> ModelPair:
        """The pair of these folders; a repeated attempt finds the one that is there."""
        try:
            return models.add(
                session,
                self.settings,
                name=self.spec.model,
                base=str(base),
                expert=str(expert),
            )
        except Conflict:
            pair = models.get(session, self.spec.model)
            if (pair.base, pair.expert) != (str(base), str(expert)):
                raise
            return pair

    @property
    def _folder(self) -> Path:
        return self.settings.models_dir / self.spec.model


def _material(session: Session, name: str) -> tuple[str, list[uuid.UUID], list[str]]:
    dataset = session.scalars(select(Dataset).where(Dataset.name == name)).one()
    texts = (
        select(Sample.id, Sample.text)
        .where(
            Sample.dataset_id == dataset.id,
            Sample.origin.in_(("real", "corrected")),
            Sample.state == "accepted",
        )
        .order_by(Sample.id)
    )
    rows = session.execute(texts).all()
    return dataset.prompt, [row.id for row in rows], [row.text for row in rows]


def _result(pair: ModelPair, expert: Trained) -> dict[str, Any]:
    return {
        "model": pair.name,
        "base": pair.base,
        "expert": pair.expert,
        "loss": expert.loss,
        "heldout_loss": expert.heldout_loss,
        "cached": expert.cached,
    }
