"""What the demo measures on a round's texts, each with a 95 % interval. Standard library only.

Shares have Wilson intervals. Distinct-3 has a leave-one-out jackknife interval: a bootstrap would
draw texts twice, and so see less diversity than there is. Nothing here is random.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from factory.intervals import wilson
from factory.local.demo.grammar import parse, theme
from factory.texts import distinct, distinct_interval


def measure(texts: Sequence[str], real: Collection[str], rejected_theme: str) -> dict[str, Any]:
    """The measures of some texts: `size`, and each of the following with its `…_ci`.

    theme_share  share about the rejected theme
    coherence    share that parses
    distinct3    different word trigrams among all of them; falls as a set grows
    yield        share that is of use: coherent, not of the rejected theme, no copy of a real
                 sample, and the first with this text
    copies       share that repeats a real sample word for word
    Without texts every measure and interval is None.
    """
    known = set(real)
    marks = {
        "theme_share": [theme(text) == rejected_theme for text in texts],
        "coherence": [parse(text) is not None for text in texts],
        "yield": _useful(texts, known, rejected_theme),
        "copies": [text in known for text in texts],
    }
    found: dict[str, Any] = {"size": len(texts)}
    for name, hits in marks.items():
        found[name] = sum(hits) / len(hits) if hits else None
        found[f"{name}_ci"] = wilson(sum(hits), len(hits)) if hits else None
    found["distinct3"] = distinct(texts)
    found["distinct3_ci"] = distinct_interval(texts)
    return {name: _rounded(value) for name, value in found.items()}


def _useful(texts: Sequence[str], real: Collection[str], rejected_theme: str) -> list[bool]:
    seen: Counter[str] = Counter()
    marks = []
    for text in texts:
        parsed = parse(text)
        fresh = not seen[text] and text not in real
        marks.append(fresh and parsed is not None and parsed.theme != rejected_theme)
        seen[text] += 1
    return marks


def _rounded(value: Any) -> Any:
    if isinstance(value, tuple):
        return [round(number, 4) for number in value]
    return round(value, 4) if isinstance(value, float) else value
