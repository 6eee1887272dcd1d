"""A train job's loss, as far as it noted it."""

from collections.abc import Sequence
from dataclasses import dataclass

from factory.tables import Shard
from factory.web.pages import curve


@dataclass(frozen=True)
class Losses:
    """points: (step, loss) as it went. Losses are nats a token."""

    points: Sequence[tuple[int, float]]

    @property
    def line(self) -> str:
        """The same as a drawing; empty for fewer than two."""
        return curve.line(self.points)


def of_shards(shards: Sequence[Shard]) -> Losses:
    """What a train job's one shard has noted; nothing for other jobs."""
    noted = shards[0].progress.get("losses", []) if shards else []
    return Losses([(int(step), float(loss)) for step, loss in noted])
