"""Words that only rejected texts have, learned from the reasons that people gave."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from factory.texts import words

CHANCE = 0.05  # of taking any innocent word for a mark, over all words together
ABOUT_WORDS = ("off_topic", "unsafe", "other")  # reasons that a word can stand for


@dataclass(frozen=True)
class Keyword:
    """A word of rejected texts only, the reason it stands for, and in how many it was seen."""

    word: str
    reason: str
    seen: int


def fit_keywords(
    texts: Sequence[str], accepted: Sequence[bool], reasons: Sequence[Sequence[str]]
) -> list[Keyword]:
    """Words that are in texts rejected for one reason and in no other text.

    If verdicts had nothing to do with words, all k texts that hold a word would be rejected for
    the reason with probability rate^k; a word is taken where that is below CHANCE divided by
    the number of words (Bonferroni). So a rule needs more texts where refusals are common.
    """
    having = [set(words(text)) for text in texts]
    seen = Counter(word for held in having for word in held)
    found = []
    for reason in ABOUT_WORDS:
        marked = [
            held
            for held, good, why in zip(having, accepted, reasons, strict=True)
            if not good and reason in why
        ]
        rate = len(marked) / max(len(texts), 1)
        here = Counter(word for held in marked for word in held)
        found += [
            Keyword(word, reason, times)
            for word, times in here.items()
            if times == seen[word]
            and 0 < rate < 1
            and times * math.log(rate) < math.log(CHANCE / len(seen))
        ]
    return sorted(found, key=lambda keyword: (-keyword.seen, keyword.word))


def keyword_in(text: str, keywords: Sequence[Keyword]) -> str | None:
    """Why a text is refused by a keyword, or None."""
    held = set(words(text))
    found = next((keyword for keyword in keywords if keyword.word in held), None)
    return None if found is None else f"has the word '{found.word}' ({found.reason})"
