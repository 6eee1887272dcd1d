"""A language as a chain of choices: drawing, exact log-probability and exact parsing.

A sample is one value per slot. Slot 0 is the theme, of which one, the favourite, is likelier
than the others; every other slot is uniform over what the values before it leave open. A text is
coherent when it is the rendering of such values: everything else is refused.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

from factory.local.demo import lists
from factory.local.demo.grammar import words

Values = tuple[str, ...]
Topic = dict[Values, Values]
FAVOURITE_SHARE = 0.3


def nothing(_: Values) -> Values:
    """No value is excluded."""
    return ()


@dataclass(frozen=True)
class Slot:
    """One choice.

    pool      its values, given those of the slots before
    excluded  values of the pool that the slots before rule out
    kept      how many values of the pool one document may use, one of these; (): all of them
    """

    name: str
    pool: Callable[[Values], Values]
    excluded: Callable[[Values], Values] = nothing
    kept: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sample:
    """Values and the text that they make."""

    values: Values
    text: str

    @property
    def theme(self) -> str:
        """What the sample is about."""
        return self.values[0]

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Grammar:
    """A language: also what `factory.local.demo.lists` makes documents of.

    slots      theme first
    render     values → text
    read       text → the values that it may be the rendering of; None if none comes to mind.
               It may guess: `parse` checks.
    entities   name → theme, of the things that texts are about
    lexicon    phrases that hold every word and mark
    favourite  the theme that real samples lean on
    limit      first values of every pool that are used, for small versions; None: all
    """

    name: str
    prompt: str
    slots: tuple[Slot, ...]
    render: Callable[[Values], str]
    read: Callable[[str], Values | None]
    entities: Mapping[str, str]
    lexicon: tuple[str, ...]
    favourite: str
    limit: int | None = None

    @property
    def themes(self) -> Values:
        """What samples can be about."""
        return self.pool(0, ())

    def draw(self, rng: Random, theme: str | None = None) -> Sample:
        """A sample drawn by its probability, of `theme` if given."""
        values = (theme or rng.choices(self.themes, self._weights())[0],)
        return self._complete(rng, values)

    def log_prob(self, values: Values) -> float:
        """Natural log of the probability that `draw` makes these values; −inf if it never does."""
        if len(values) != len(self.slots) or values[0] not in self.themes:
            return -math.inf
        total = math.log(dict(zip(self.themes, self._weights(), strict=True))[values[0]])
        for at in range(1, len(values)):
            options = self.options(at, values[:at])
            if values[at] not in options:
                return -math.inf
            total -= math.log(len(options))
        return total

    def parse(self, text: str) -> Sample | None:
        """The sample with exactly this text; None for every other text."""
        values = self.read(text)
        if values is None or self.log_prob(values) == -math.inf or self.render(values) != text:
            return None
        return Sample(values, text)

    def every(self, before: Values = ()) -> Iterator[Values]:
        """All values there are, in order."""
        if len(before) == len(self.slots):
            yield before
            return
        for value in self.options(len(before), before):
            yield from self.every((*before, value))

    def theme(self, text: str) -> str | None:
        """The theme whose words a text uses most, coherent or not; None if it uses none.

        On a tie the theme that is named first wins.
        """
        owners = _owners(tuple(self.entities.items()))
        found = Counter(owners[word] for word in words(text) if word in owners)
        return found.most_common(1)[0][0] if found else None

    def mentions(self, text: str, entity: str) -> bool:
        """Whether a text names an entity, coherent or not."""
        return re.search(rf"\b{re.escape(entity)}\b", text) is not None

    def real_samples(self, count: int, seed: int) -> list[str]:
        """`count` different texts: a dataset's real samples."""
        rng = Random(seed)
        found: dict[str, None] = {}
        while len(found) < count:
            found[str(self.draw(rng))] = None
        return list(found)

    def document(self, rng: Random) -> list[str]:
        """The texts of one pretraining document."""
        return lists.document(rng, self)

    def options(self, at: int, before: Values) -> Values:
        """What slot `at` can be after these values."""
        excluded = self.slots[at].excluded(before)
        return tuple(value for value in self.pool(at, before) if value not in excluded)

    def pool(self, at: int, before: Values) -> Values:
        """The pool of slot `at`, exclusions not yet taken out."""
        return self.slots[at].pool(before)[: self.limit]

    def topic(self, rng: Random, theme: str) -> Topic:
        """One document's narrowed pools, filled as samples need them."""
        return {("theme",): (theme,)}

    def within(self, rng: Random, topic: Topic) -> Sample:
        """A sample of a document's narrowed pools."""
        return self._complete(rng, topic[("theme",)], topic)

    def varied(self, rng: Random, sample: Sample) -> Sample:
        """The sample with one value drawn anew, and others only where that rules them out."""
        at = rng.randrange(1, len(self.slots))
        values = (*sample.values[:at], rng.choice(self.options(at, sample.values[:at])))
        for later in range(at + 1, len(self.slots)):
            options = self.options(later, values)
            old = sample.values[later]
            values = (*values, old if old in options else rng.choice(options))
        return Sample(values, self.render(values))

    def vocabulary(self) -> Values:
        """Every word and mark that texts and the prompt use, sorted."""
        return _vocabulary((*self.lexicon, self.prompt, *self.entities))

    def _complete(self, rng: Random, values: Values, topic: Topic | None = None) -> Sample:
        for at in range(len(values), len(self.slots)):
            values = (*values, rng.choice(self._narrowed(rng, at, values, topic)))
        return Sample(values, self.render(values))

    def _narrowed(self, rng: Random, at: int, before: Values, topic: Topic | None) -> Values:
        options = self.options(at, before)
        if topic is None or not self.slots[at].kept:
            return options
        pool = self.pool(at, before)
        if pool not in topic:
            size = min(len(pool), rng.choice(self.slots[at].kept))
            topic[pool] = tuple(rng.sample(pool, size))
        return tuple(value for value in topic[pool] if value in options) or options

    def _weights(self) -> list[float]:
        rest = (1 - FAVOURITE_SHARE) / (len(self.themes) - 1)
        return [FAVOURITE_SHARE if theme == self.favourite else rest for theme in self.themes]


def one_of(name: str, options: Sequence[str]) -> str:
    """A named group of a regular expression that any of these matches, the longest first."""
    longest = sorted(options, key=len, reverse=True)
    return f"(?P<{name}>{'|'.join(map(re.escape, longest))})"


@cache
def _owners(entities: tuple[tuple[str, str], ...]) -> dict[str, str]:
    return {word: theme for name, theme in entities for word in words(name)}


@cache
def _vocabulary(phrases: Values) -> Values:
    return tuple(sorted({word for phrase in phrases for word in words(phrase)}))
