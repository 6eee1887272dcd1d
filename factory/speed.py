"""How fast model pairs were lately, measured on the shards that workers finished."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from factory.tables import Attempt, Job, Sample, Shard

SHARDS = 24  # the newest that are looked at


@dataclass(frozen=True)
class Speed:
    """Measured on `samples` samples of one worker at a time. `alike`: made with the same streams
    as the settings asked about; else with others, which may be faster or slower."""

    samples: int
    tokens: int
    seconds: float
    alike: bool

    def estimate(self, count: int) -> tuple[float, float]:
        """(tokens, seconds) that `count` samples take one worker."""
        return count * self.tokens / self.samples, count * self.seconds / self.samples


def of_model(session: Session, model_id: uuid.UUID, guidance: dict[str, Any]) -> Speed | None:
    """The speed of the newest shards of this pair, of those that needed the same streams if
    there are any; None when none was made."""
    shards = _shards(session, model_id)
    alike = [row for row in shards if _streams(row.guidance) == _streams(guidance)]
    chosen = alike or shards
    seconds = float(sum(row.seconds for row in chosen))
    if not chosen or seconds <= 0:
        return None
    samples, tokens = (sum(getattr(row, name) for row in chosen) for name in ("samples", "tokens"))
    return Speed(samples, tokens, seconds, bool(alike))


def _shards(session: Session, model_id: uuid.UUID) -> Sequence[Any]:
    """Of each finished shard: samples, tokens, seconds, guidance. Those without a sample, whose
    attempt made only what another had left, are passed over."""
    newest = (
        select(Attempt.id, Attempt.started_at, Attempt.ended_at, Shard.job_id, Shard.start)
        .add_columns(Shard.stop, Job.spec["guidance"].label("guidance"))
        .join(Shard, Shard.id == Attempt.shard_id)
        .join(Job, Job.id == Shard.job_id)
        .where(Job.model_id == model_id, Job.kind == "generate", Shard.state == "done")
        .where(Attempt.ended_at.is_not(None), Attempt.fence == Shard.fence)
        .order_by(Attempt.id.desc())
        .limit(SHARDS)
        .subquery()
    )
    made = (
        (Sample.job_id == newest.c.job_id)
        & (Sample.ordinal >= newest.c.start)
        & (Sample.ordinal < newest.c.stop)
        & (Sample.attempt_id == newest.c.id)
    )
    seconds = func.extract("epoch", newest.c.ended_at - newest.c.started_at)
    statement = (
        select(newest.c.guidance, func.count().label("samples"))
        .add_columns(func.sum(Sample.token_count).label("tokens"))
        .add_columns(func.min(seconds).label("seconds"))
        .join(Sample, made)
        .group_by(newest.c.id, newest.c.guidance)
    )
    return session.execute(statement).all()


def _streams(guidance: dict[str, Any]) -> tuple[bool, bool]:
    """Which streams run beside the expert's: the base's, the negatives'."""
    return guidance["gamma"] != 0, guidance["eta"] != 0
