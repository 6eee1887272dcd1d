"""Documents that are lists of samples with a shared latent topic, for any small language.

A model trained on them learns to let its context decide what comes next: without that,
negatives have nothing to say. Standard library only.
"""

from collections.abc import Sequence
from random import Random
from typing import Protocol, TypeVar

LENGTHS = (1, 2, 3, 4, 6, 8, 10)
COPY_RATES = (0.0, 0.15, 0.45)
ONE_THEME = 0.85  # share of documents that keep to a theme
STICKY = 0.95  # share of such a document's samples that do
EXACT = 0.45  # share of copies that change nothing
NOISY = 0.12  # share of documents with broken samples

Topic = TypeVar("Topic")
Sample = TypeVar("Sample")


class Language(Protocol[Topic, Sample]):
    """What a document is made of. `str` of a sample is its text."""

    @property
    def themes(self) -> Sequence[str]:
        """What samples can be about."""

    def topic(self, rng: Random, theme: str) -> Topic:
        """The parts of a theme that one document's samples are drawn from."""

    def within(self, rng: Random, topic: Topic) -> Sample:
        """A sample of those parts."""

    def varied(self, rng: Random, sample: Sample) -> Sample:
        """The sample with one part changed."""

    def vocabulary(self) -> Sequence[str]:
        """Every word and mark that texts and the prompt use."""


def document(rng: Random, language: Language[Topic, Sample]) -> list[str]:
    """The texts of one pretraining document."""
    theme = rng.choice(language.themes) if rng.random() < ONE_THEME else None
    topics: dict[str, Topic] = {}
    copy_rate = rng.choice(COPY_RATES)
    samples: list[Sample] = []
    for _ in range(rng.choice(LENGTHS)):
        if samples and rng.random() < copy_rate:
            seen = rng.choice(samples)
            samples.append(seen if rng.random() < EXACT else language.varied(rng, seen))
            continue
        stays = theme is not None and rng.random() < STICKY
        name = theme if stays and theme else rng.choice(language.themes)
        topic = topics.setdefault(name, language.topic(rng, name))
        samples.append(language.within(rng, topic))
    texts = [str(sample) for sample in samples]
    if rng.random() >= NOISY:
        return texts
    return [broken(rng, text, language.vocabulary()) for text in texts]


def broken(rng: Random, text: str, vocabulary: Sequence[str]) -> str:
    """The text with one to three words dropped, swapped or replaced."""
    parts = text.split(" ")
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(parts) - 1)
        match rng.choice(("drop", "swap", "replace")):
            case "drop" if len(parts) > 2:
                del parts[at]
            case "swap":
                parts[at], parts[at + 1] = parts[at + 1], parts[at]
            case _:
                parts[at] = rng.choice([word for word in vocabulary if word.isalpha()])
    return " ".join(parts)
