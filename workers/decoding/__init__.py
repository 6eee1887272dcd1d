"""STEER decoding: torch only. Knows token ids, not text, jobs or tables."""

from .decoder import SteerDecoder
from .guidance import steer_scores
from .levers import HeadTerm, VerdictHead
from .model_pair import ModelPair
from .prompts import join_documents
from .records import Completion, Request, Trace

__all__ = [
    "Completion",
    "HeadTerm",
    "ModelPair",
    "Request",
    "SteerDecoder",
    "Trace",
    "VerdictHead",
    "join_documents",
    "steer_scores",
]
