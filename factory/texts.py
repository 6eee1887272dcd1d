"""Texts word by word: how varied a few are, what two share and where they differ. Standard
library only."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from factory.intervals import Interval, jackknife

SHARED_WORDS = 3  # a shorter run of equal words says little
NEAR_COPY = "near-copy of"  # what a reason begins with that names a text's near-copy
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Part:
    """A piece of a text; `marked` where it is shared, or where it differs."""

    text: str
    marked: bool


def words(text: str) -> list[str]:
    """A text's words and marks, in lower case."""
    return _WORD.findall(text.lower())


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """A text's runs of n words."""
    tokens = words(text)
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def runs(text: str) -> set[tuple[str, ...]]:
    """A text's different runs of three words; a shorter text is one run."""
    return set(ngrams(text, SHARED_WORDS)) or {tuple(words(text))}


def copied_runs(whose: str, share: float) -> str:
    """Why a text is a near-copy: so much of its runs of three words is `whose`."""
    return f"{NEAR_COPY} {whose}: has {share:.0%} of its runs of three words"


def copied_meaning(whose: str, cosine: float) -> str:
    """Why a text is a near-copy: its embedding is so close to that of `whose`."""
    return f"{NEAR_COPY} {whose}: cosine {cosine:.2f}"


def distinct(texts: Sequence[str], n: int = 3) -> float | None:
    """Different word n-grams per word n-gram (Li et al., arXiv 1510.03055); None without any."""
    grams = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else None


def distinct_interval(texts: Sequence[str], n: int = 3) -> Interval | None:
    """The 95 % leave-one-out jackknife interval of `distinct`; None below two texts or without
    n-grams. (A bootstrap would draw texts twice, and so see less variety than there is.)"""
    whole, counts = distinct(texts, n), [Counter(ngrams(text, n)) for text in texts]
    everywhere: Counter[tuple[str, ...]] = Counter()
    for count in counts:
        everywhere.update(count)
    size = everywhere.total()
    if whole is None or len(texts) < 2 or any(count.total() == size for count in counts):
        return None
    without = [
        (len(everywhere) - sum(everywhere[gram] == times for gram, times in count.items()))
        / (size - count.total())
        for count in counts
    ]
    return jackknife(whole, without)


def differences(text: str, other: str) -> list[Part]:
    """`text` in parts, marked where `other` reads differently."""
    here, there = _pieces(text), _pieces(other)
    matcher = SequenceMatcher(None, here, there, autojunk=False)
    equal = {i for i, _, size in matcher.get_matching_blocks() for i in range(i, i + size)}
    return _joined(
        Part(piece, i not in equal and not piece.isspace()) for i, piece in enumerate(here)
    )


def overlaps(text: str, other: str, at_least: int = SHARED_WORDS) -> list[Part]:
    """`text` in parts, marked where a run of `at_least` words or more stands in `other` too."""
    found = list(_WORD.finditer(text))
    here, there = [match.group().lower() for match in found], words(other)
    grams = {tuple(there[i : i + at_least]) for i in range(len(there) - at_least + 1)}
    shared = [False] * len(here)
    for i in range(len(here) - at_least + 1):
        if tuple(here[i : i + at_least]) in grams:
            shared[i : i + at_least] = [True] * at_least
    parts, end = [], 0
    for match, is_shared in zip(found, shared, strict=True):
        parts += [Part(text[end : match.start()], False), Part(match.group(), is_shared)]
        end = match.end()
    return _joined([*parts, Part(text[end:], False)])


def _pieces(text: str) -> list[str]:
    """Words, and the blanks between them."""
    return re.findall(r"\s+|\S+", text)


def _joined(parts: Iterable[Part]) -> list[Part]:
    """Neighbours of one kind as one part, with the blanks between them; empty ones left out."""
    joined: list[Part] = []
    for part in parts:
        if not part.text:
            continue
        blank = joined and joined[-1].text.isspace()
        if blank and len(joined) > 1 and joined[-2].marked == part.marked:
            part = Part(joined.pop().text + part.text, part.marked)
        if joined and joined[-1].marked == part.marked:
            part = Part(joined.pop().text + part.text, part.marked)
        joined.append(part)
    return joined
