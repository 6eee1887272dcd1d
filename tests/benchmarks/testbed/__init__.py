"""Small languages of our own, whose samples can be parsed and weighed exactly.

    from tests.benchmarks.testbed import TASKS

Nothing here imports torch: a language knows words, not models.
"""

from .comments import COMMENTS
from .grammar import Grammar, Sample, Slot, Values
from .hypotheses import HYPOTHESES
from .questions import QUESTIONS

TASKS: dict[str, Grammar] = {task.name: task for task in (HYPOTHESES, COMMENTS, QUESTIONS)}

__all__ = ["COMMENTS", "HYPOTHESES", "QUESTIONS", "TASKS", "Grammar", "Sample", "Slot", "Values"]
