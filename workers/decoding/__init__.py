"""STEER decoding: torch only. Knows token ids, not text, jobs or tables."""

from workers.models.pair import ModelPair
from workers.streams import ATTACHED, MASKED, DocumentCache, RoleName

from .choosing import Logits, Term
from .decoder import SteerDecoder
from .guidance import Steered, log_probs, steer_scores
from .records import Completion, Request, Step, Trace

__all__ = [
    "ATTACHED",
    "MASKED",
    "Completion",
    "DocumentCache",
    "Logits",
    "ModelPair",
    "Request",
    "RoleName",
    "SteerDecoder",
    "Steered",
    "Step",
    "Term",
    "Trace",
    "log_probs",
    "steer_scores",
]
