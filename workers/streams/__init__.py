"""Streams: contexts run through models, each row going on token by token. Torch and transformers.

A stream is one way to continue a sample: the expert or the base after the prompt, the expert after
a negative or a centre context, adapters tuned on accepted or rejected texts after the prompt. What
comes out is logits; what they are for is `workers.decoding`.
"""

from .documents import Context, DocumentCache, apart
from .lane import ATTACHED, GUIDING, MASKED, ROLES, RoleName
from .streams import Streams

__all__ = [
    "ATTACHED",
    "GUIDING",
    "MASKED",
    "ROLES",
    "Context",
    "DocumentCache",
    "RoleName",
    "Streams",
    "apart",
]
