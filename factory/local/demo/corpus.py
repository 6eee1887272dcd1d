"""What the demo's models learn from: pretraining documents and a dataset's real samples."""

from dataclasses import dataclass, replace
from random import Random

from factory.local.demo import grammar, lists
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
)

FAVOURITE = "ocean"  # the real samples lean on it, and the demo's reviewer is tired of it
FAVOURITE_SHARE = 0.3


@dataclass(frozen=True)
class Topic:
    """What one document talks about: the parts that its sentences are drawn from."""

    entities: tuple[Entity, ...]
    verbs: tuple[str, ...]
    openings: tuple[str, ...]
    settings: tuple[str, ...]


class Hypotheses:
    """The demo's language, as the makers of documents know one."""

    themes = THEMES

    def topic(self, rng: Random, theme: str) -> Topic:
        """Some entities of the theme, and some of all verbs, openings and settings."""
        return Topic(
            tuple(rng.sample(of_theme(theme), rng.choice((3, 4, 6, 8)))),
            tuple(rng.sample(VERBS, rng.choice((1, 2, 3)))),
            tuple(rng.sample(OPENINGS, rng.choice((2, 4, 8)))),
            tuple(rng.sample(SETTINGS, rng.choice((2, 4, 8)))),
        )

    def within(self, rng: Random, topic: Topic) -> Hypothesis:
        """A hypothesis of the topic's parts."""
        cause, effect = rng.sample(topic.entities, 2)
        return Hypothesis(
            rng.choice(topic.openings),
            cause,
            rng.choice(topic.verbs),
            effect,
            rng.choice(topic.settings),
            rng.choice(tuple(CONSEQUENCES)),
        )

    def varied(self, rng: Random, sentence: Hypothesis) -> Hypothesis:
        """The hypothesis with one part changed."""
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

    def vocabulary(self) -> tuple[str, ...]:
        """Every word and mark of the language and its prompt."""
        return grammar.vocabulary()


def document(rng: Random) -> list[str]:
    """The sentences of one pretraining document."""
    return lists.document(rng, Hypotheses())


def broken(rng: Random, text: str) -> str:
    """The sentence with one to three words dropped, swapped or replaced."""
    return lists.broken(rng, text, grammar.vocabulary())


def real_samples(count: int, seed: int) -> list[str]:
    """`count` different coherent sentences; `FAVOURITE_SHARE` of them about one theme."""
    rng = Random(seed)
    others = [theme for theme in THEMES if theme != FAVOURITE]
    found: dict[str, None] = {}
    while len(found) < count:
        favourite = rng.random() < FAVOURITE_SHARE
        found[sample(rng, FAVOURITE if favourite else rng.choice(others))] = None
    return list(found)
