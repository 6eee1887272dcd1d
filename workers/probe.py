"""Runs a probe job: how well a pair's expert knows real samples, and whether context moves it."""

import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from factory import samples
from factory.db import Database
from factory.errors import Invalid
from factory.spec import ProbeSpec
from factory.tables import Dataset, Job
from workers.layout import Layout
from workers.leases import Hold
from workers.metrics.fit import floor
from workers.metrics.likelihood import Scored, text_log_probs
from workers.metrics.measure import Array, bootstrap, measured, unknown
from workers.pairs import LoadedPair
from workers.training.neighbours import by_words

NEAREST = 3  # samples in a context, as many as a generate job's negatives


@dataclass(frozen=True)
class Text:
    """A real sample, and whether the expert was trained on it (None: not known)."""

    text: str
    seen: bool | None


@dataclass
class ProbeRun:
    """One attempt at one probe job."""

    database: Database
    hold: Hold
    job_id: uuid.UUID
    spec: ProbeSpec
    pair: LoadedPair

    def run(self) -> None:
        """Measure, and keep the result. Raises LeaseLost, Stopped, FactoryError."""
        texts = self.database.retrying(self._texts)
        result = self._measure(texts) if texts else {"real": 0}
        self.database.retrying(lambda session: self._keep(session, result))

    def _measure(self, texts: Sequence[Text]) -> dict[str, Any]:
        """All in nats a token; each text counts once, however long."""
        layout = Layout(self.pair.tokenizer, self.spec.prompt or "")
        alone = self._means(layout, texts, [()] * len(texts))
        everything = [text.text for text in texts]
        near = by_words(everything, NEAREST) if len(texts) > NEAREST else None
        base = self._means(layout, texts, [()] * len(texts), model="base")
        itself = self._means(layout, texts, [(text,) for text in everything])
        gap = self._gap(texts, alone - base)
        result = {
            "real": len(texts),
            "floor": floor(alone, [text.seen is True for text in texts], gap["value"] or 0.0),
            "expert_loss": self._mean("expert_loss", -alone),
            "base_loss": self._mean("base_loss", -base),
            "gain": self._mean("gain", alone - base),
            "gap": gap,
            "uplift_self": self._mean("uplift_self", itself - alone),
        }
        if near is not None:
            contexts = [tuple(everything[i] for i in row) for row in near]
            lifted = self._means(layout, texts, contexts) - alone
            result["uplift_nearest"] = self._mean("uplift_nearest", lifted)
        return result

    def _means(
        self,
        layout: Layout,
        texts: Sequence[Text],
        contexts: Sequence[Sequence[str]],
        model: Any = "expert",
    ) -> Array:
        """Each text's mean log-probability a token after its context's samples, (N,)."""
        limit = self.pair.models.max_positions
        scored = []
        for text, context in zip(texts, contexts, strict=True):
            ids = layout.text_ids(text.text)[: limit - len(layout.prompt_ids())]
            scored.append(Scored(layout.context(context, limit - len(ids)).ids, ids))
        found = text_log_probs(self.pair.models, model, scored, self.hold.check)
        return np.array([float(each.mean()) for each in found])

    def _gap(self, texts: Sequence[Text], gains: Array) -> dict[str, Any]:
        """How much more it gained over its base on texts it was trained on than on others: by
        gains, not losses, so that texts which are hard for any model do not count."""
        seen, unseen = (gains[[text.seen is wanted for text in texts]] for wanted in (True, False))
        if not len(seen) or not len(unseen):
            return asdict(unknown("gap", 0, "It is not known what the expert was not trained on."))

        def more(one: Array, other: Array) -> float:
            return float(one.mean() - other.mean())

        interval = bootstrap(more, seen, unseen, seed=self.spec.seed)
        return asdict(measured("gap", more(seen, unseen), interval, len(unseen)))

    def _mean(self, name: str, values: Array) -> dict[str, Any]:
        interval = bootstrap(lambda v: float(v.mean()), values, seed=self.spec.seed)
        return asdict(measured(name, float(values.mean()), interval, len(values)))

    def _texts(self, session: Session) -> list[Text]:
        """Real samples that the seed chooses, in a fixed order; of what training kept out as
        many as half of them."""
        dataset = session.scalar(select(Dataset).where(Dataset.name == self.spec.dataset))
        if dataset is None:
            raise Invalid(f"There is no dataset named '{self.spec.dataset}'.")
        limit, seed = self.spec.limit, self.spec.seed
        real = samples.chosen(session, dataset.id, origin="real", limit=limit, seed=seed)
        trained = _training(session, self.spec.model, dataset)
        if trained is None:
            return [Text(sample.text, None) for sample in real]
        heldout, begun = trained
        out = sorted(samples.by_ids(session, heldout).values(), key=lambda sample: sample.id)
        few = [Text(sample.text, seen=False) for sample in out[: limit // 2]]
        others = [
            Text(sample.text, seen=sample.created_at < begun)
            for sample in real
            if sample.id not in heldout
        ]
        return few + others[: limit - len(few)]

    def _keep(self, session: Session, result: dict[str, Any]) -> None:
        self.hold.renew(session)
        session.get_one(Job, self.job_id).result = result


def _training(
    session: Session, model: str, dataset: Dataset
) -> tuple[list[uuid.UUID], datetime] | None:
    """What the pair's training kept out of this dataset, and when it began; None: not known."""
    statement = select(Job).where(
        Job.kind == "train",
        Job.state == "succeeded",
        Job.dataset_id == dataset.id,
        Job.spec["model"].astext == model,
    )
    job = session.scalar(statement.order_by(Job.id.desc()).limit(1))
    if job is None or job.started_at is None or "heldout" not in (job.result or {}):
        return None
    return [uuid.UUID(id_) for id_ in (job.result or {})["heldout"]], job.started_at
