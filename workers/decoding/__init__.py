"""STEER decoding: torch only. Knows token ids, not text, jobs or tables."""

from workers.models.pair import ModelPair
from workers.streams import MASKED, DocumentCache, RoleName

from .decoder import SteerDecoder
from .guidance import Steered, steer_scores
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
