"""STEER decoding: torch only. Knows token ids, not text, jobs or tables."""

from .decoder import SteerDecoder
from .guidance import MASKED, Steered, steer_scores
from .lane import RoleName
from .levers import HeadTerm, VerdictHead
from .memory import MemoryPlan, most_slots, plan
from .model_pair import ModelPair
from .prompts import join_documents
from .records import Completion, Request, Step, Trace

__all__ = [
    "MASKED",
    "Completion",
    "HeadTerm",
    "MemoryPlan",
    "ModelPair",
    "Request",
    "RoleName",
    "SteerDecoder",
    "Steered",
    "Step",
    "Trace",
    "VerdictHead",
    "join_documents",
    "most_slots",
    "plan",
    "steer_scores",
]
