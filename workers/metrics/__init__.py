"""What can be measured of a set of samples, alone and beside real ones. Every measure has a 95 %
interval; nothing here knows tables or jobs."""

from workers.metrics.evaluation import Row, evaluate, reference
from workers.metrics.measure import Measure

__all__ = ["Measure", "Row", "evaluate", "reference"]
