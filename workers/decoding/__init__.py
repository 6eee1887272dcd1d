"""STEER decoding: torch only. Knows token ids, not text, jobs or tables."""

from workers.models.pair import ModelPair

from .decoder import SteerDecoder
from .documents import DocumentCache
from .guidance import MASKED, Steered, steer_scores
from .lane import RoleName
from .records import Completion, Request, Step, Trace

__all__ = [
    "MASKED",
    "Completion",
    "DocumentCache",
    "ModelPair",
    "Request",
    "RoleName",
    "SteerDecoder",
    "Steered",
    "Step",
    "Trace",
    "steer_scores",
]
