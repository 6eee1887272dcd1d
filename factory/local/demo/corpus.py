"""What the demo's models learn from: pretraining documents and a dataset's real samples.

A document is a list of sentences that share a latent topic, so that a model trained on them
learns to let its context decide what comes next: without that, negatives have nothing to say.
"""

from dataclasses import dataclass, replace
from random import Random

from factory.local.demo.grammar import (
    CONSEQUENCES,
    ENTITIES,
    OPENINGS,
    SETTINGS,
    THEMES,
    VERBS,
    Entity,
    Hypothesis,
    of_theme,
    sample,
    vocabulary,
)

LENGTHS = (1, 2, 3, 4, 6, 8, 10)
COPY_RATES = (0.0, 0.15, 0.45)
ONE_THEME = 0.85  # share of documents that keep to a theme
STICKY = 0.95  # share of such a document's sentences that do
EXACT = 0.45  # share of copies that change nothing
NOISY = 0.12  # share of documents with broken sentences

FAVOURITE = "ocean"  # the real samples lean on it, and the demo's reviewer is tired of it
FAVOURITE_SHARE = 0.3


@dataclass(frozen=True)
class Topic:
    """What one document talks about: the parts that its sentences are drawn from."""

    entities: tuple[Entity, ...]
    verbs: tuple[str, ...]
    openings: tuple[str, ...]
    settings: tuple[str, ...]


def document(rng: Random) -> list[str]:
    """The sentences of one pretraining document."""
    theme = rng.choice(THEMES) if rng.random() < ONE_THEME else None
    topics: dict[str, Topic] = {}
    copy_rate = rng.choice(COPY_RATES)
    sentences: list[Hypothesis] = []
    for _ in range(rng.choice(LENGTHS)):
        if sentences and rng.random() < copy_rate:
            sentences.append(_copy(rng, rng.choice(sentences)))
            continue
        stays = theme is not None and rng.random() < STICKY
        name = theme if stays and theme else rng.choice(THEMES)
        topic = topics.setdefault(name, _topic(rng, name))
        sentences.append(_within(rng, topic))
    texts = [str(sentence) for sentence in sentences]
    return [broken(rng, text) for text in texts] if rng.random() < NOISY else texts


def real_samples(count: int, seed: int) -> list[str]:
    """`count` different coherent sentences; `FAVOURITE_SHARE` of them about one theme."""
    rng = Random(seed)
    others = [theme for theme in THEMES if theme != FAVOURITE]
    found: dict[str, None] = {}
    while len(found) < count:
        favourite = rng.random() < FAVOURITE_SHARE
        found[sample(rng, FAVOURITE if favourite else rng.choice(others))] = None
    return list(found)


def broken(rng: Random, text: str) -> str:
    """The sentence with one to three words dropped, swapped or replaced."""
    parts = text.split(" ")
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(parts) - 1)
        match rng.choice(("drop", "swap", "replace")):
            case "drop" if len(parts) > 2:
                del parts[at]
            case "swap":
                parts[at], parts[at + 1] = parts[at + 1], parts[at]
            case _:
                parts[at] = rng.choice([word for word in vocabulary() if word.isalpha()])
    return " ".join(parts)


def _topic(rng: Random, theme: str) -> Topic:
    return Topic(
        tuple(rng.sample(of_theme(theme), rng.choice((3, 4, 6, 8)))),
        tuple(rng.sample(VERBS, rng.choice((1, 2, 3)))),
        tuple(rng.sample(OPENINGS, rng.choice((2, 4, 8)))),
        tuple(rng.sample(SETTINGS, rng.choice((2, 4, 8)))),
    )


def _within(rng: Random, topic: Topic) -> Hypothesis:
    cause, effect = rng.sample(topic.entities, 2)
    return Hypothesis(
        rng.choice(topic.openings),
        cause,
        rng.choice(topic.verbs),
        effect,
        rng.choice(topic.settings),
        rng.choice(tuple(CONSEQUENCES)),
    )


def _copy(rng: Random, sentence: Hypothesis) -> Hypothesis:
    """The sentence again, exactly or with one part changed."""
    if rng.random() < EXACT:
        return sentence
    entities = [e for e in ENTITIES if e.theme == sentence.theme and e != sentence.cause]
    match rng.choice(("opening", "verb", "effect", "setting", "consequence")):
        case "opening":
            return replace(sentence, opening=rng.choice(OPENINGS))
        case "verb":
            return replace(sentence, verb=rng.choice(VERBS))
        case "effect":
            return replace(sentence, effect=rng.choice(entities))
        case "setting":
            return replace(sentence, setting=rng.choice(SETTINGS))
        case _:
            return replace(sentence, consequence=rng.choice(tuple(CONSEQUENCES)))
