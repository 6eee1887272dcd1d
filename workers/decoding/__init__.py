"""STEER decoding: torch only. Knows token ids, not text, jobs or tables."""

from .decoder import SteerDecoder
from .guidance import MASKED, steer_scores
from .model_pair import ModelPair
from .prompts import join_documents
from .records import Completion, Request, Trace

__all__ = [
    "MASKED",
    "Completion",
    "ModelPair",
    "Request",
    "SteerDecoder",
    "Trace",
    "join_documents",
    "steer_scores",
]
