"""One run of the study: its sizes, its models, and the texts it has made."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from factory.spec import COUNT, POINTS
from tests.benchmarks.study.beds import REGIMES, Bed, Models, Setting
from tests.benchmarks.study.store import Store
from tests.benchmarks.testbed import TASKS, Grammar
from workers.training import recipe
from workers.training.base import BaseConfig

TUNING_SEED = 0  # of the expert that rules are tuned on; figures come from the others


@dataclass(frozen=True)
class Sizes:
    """How much is made.

    seeds    experts that figures are taken from, each with its own noise
    tuning   samples of each setting that a rule is tuned over
    samples  samples of each seed in a figure
    reviews  samples reviewed in each round of the loop; twice as many before a lever acts once
    grid     samples of each point of the grid that calibration is compared with
    points   that calibration tries, and `count`, samples of each in its first round: the defaults
             of `factory model calibrate`
    """

    seeds: int = 5
    tuning: int = 60
    samples: int = 150
    reviews: int = 100
    grid: int = 64
    points: int = POINTS
    count: int = COUNT
    rounds: int = 5


FULL = Sizes()
QUICK_BASE = BaseConfig(steps=400, batch=4, layers=2)
QUICK = Sizes(seeds=1, tuning=10, samples=30, reviews=20, grid=4, points=4, count=4, rounds=3)


@dataclass(frozen=True)
class Study:
    """What the parts of the study work with."""

    models: Models
    store: Store
    sizes: Sizes = FULL
    tasks: Sequence[str] = tuple(TASKS)
    regimes: Sequence[str] = tuple(REGIMES)

    @property
    def seeds(self) -> range:
        """Seeds of the experts that figures are taken from."""
        return range(TUNING_SEED + 1, TUNING_SEED + 1 + self.sizes.seeds)

    def bed(self, task: Grammar, regime: str, seed: int) -> Bed:
        """An expert with its base, trained if need be. Raises OutOfTime before a training."""
        if not self.models.is_trained(task, regime, seed):
            self.store.check()
        return self.models.bed(task, regime, seed)

    def texts(
        self, task: Grammar, regime: str, seed: int, count: int, noise: int, setting: Setting
    ) -> list[str]:
        """`count` texts of one expert, made now or before. Raises OutOfTime."""
        made: list[str] = self.store.get(
            self.key(task, regime, seed) | {"count": count, "noise": noise} | setting_key(setting),
            lambda: self.bed(task, regime, seed).texts(count, noise, setting),
        )
        return made

    def key(self, task: Grammar, regime: str, seed: int) -> dict[str, Any]:
        """What tells one expert from every other."""
        return {"expert": recipe.digest(self.models.plan(task, regime, seed))}


def setting_key(setting: Setting) -> dict[str, Any]:
    """What tells one way to make texts from another: what differs from the defaults."""
    return {
        "guidance": _changed(setting.guidance),
        "sampling": _changed(setting.sampling),
        "pick": setting.pick.__qualname__,
    }


def _changed(settings: Any) -> dict[str, Any]:
    named = {field.name: getattr(settings, field.name) for field in fields(settings)}
    defaults = {field.name: field.default for field in fields(settings)}
    return {name: value for name, value in named.items() if value != defaults[name]}
