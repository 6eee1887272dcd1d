"""The demo's own language: one-sentence scientific hypotheses. Standard library only.

    <opening> <cause> <verb> <effect> <setting>, <consequence>.
    We propose that coral reefs strengthen sea ice in warm seasons, so when coral reefs grow,
    sea ice rises.

A sentence is coherent when it parses: cause and effect are two entities of one field, verbs
agree in number, and the consequence names the same two entities again. Its theme is the field.
"""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from random import Random

PROMPT = "Hypothesis:"


@dataclass(frozen=True)
class Entity:
    """A noun phrase. Every word of it belongs to this entity's field alone."""

    name: str
    plural: bool
    theme: str


@dataclass(frozen=True)
class Hypothesis:
    """A sentence, by its parts. `verb` and `opening` are dictionary forms."""

    opening: str
    cause: Entity
    verb: str
    effect: Entity
    setting: str
    consequence: str

    @property
    def theme(self) -> str:
        """The field that cause and effect share."""
        return self.cause.theme

    def __str__(self) -> str:
        claim = f"{self.opening} {self.cause.name} {_inflect(self.verb, self.cause)}"
        tail = CONSEQUENCES[self.consequence].format(
            cause=self.cause.name,
            effect=self.effect.name,
            grow=_inflect("grow", self.cause),
            rise=_inflect("rise", self.effect),
        )
        return f"{claim} {self.effect.name} {self.setting}, {tail}."


# A trailing "+" marks a plural. No word appears in two fields.
_FIELDS = {
    "ocean": (
        "coral reefs+, tidal mixing, sea ice, kelp forests+, plankton blooms+, deep currents+, "
        "coastal upwelling, seafloor sediment"
    ),
    "brain": (
        "sleep spindles+, working memory, cortical rhythms+, dopamine release, "
        "spatial attention, hippocampal replay, motor neurons+, synaptic pruning"
    ),
    "space": (
        "stellar winds+, cosmic dust, galaxy mergers+, solar flares+, dark matter, "
        "orbital resonance, gamma bursts+, planetary rings+"
    ),
    "soil": (
        "root fungi+, leaf litter, earthworm burrows+, available nitrogen, clay minerals+, "
        "microbial respiration, compost layers+, crop rotation"
    ),
    "immunity": (
        "helper lymphocytes+, gut bacteria+, viral load, antibody titers+, "
        "chronic inflammation, fever response, vaccine boosters+, cytokine signalling"
    ),
    "materials": (
        "grain boundaries+, lattice defects+, thermal strain, polymer chains+, "
        "surface oxidation, carbon fibers+, alloy hardness, crystal nucleation"
    ),
}
THEMES = tuple(_FIELDS)
ENTITIES = tuple(
    Entity(name.strip().removesuffix("+"), name.endswith("+"), theme)
    for theme, names in _FIELDS.items()
    for name in names.split(",")
)
VERBS = ("increase", "strengthen", "accelerate")
OPENINGS = (
    "We propose that",
    "We expect that",
    "It is likely that",
    "Our records suggest that",
    "One explanation is that",
    "Early results imply that",
    "A simple model predicts that",
    "Prior work hints that",
)
SETTINGS = (
    "in warm seasons",
    "under mild stress",
    "at low density",
    "over long periods",
    "during slow change",
    "after brief shocks",
    "across wide regions",
    "within small samples",
)
CONSEQUENCES = {
    "when": "so when {cause} {grow}, {effect} {rise}",
    "as": "so {effect} {rise} as {cause} {grow}",
    "without": "so without {cause} we expect a drop in {effect}",
}
_BY_NAME = {entity.name: entity for entity in ENTITIES}
_THEME_OF_WORD = {word: entity.theme for entity in ENTITIES for word in entity.name.split()}
_WORD = re.compile(r"\w+|[^\w\s]")


def of_theme(theme: str) -> tuple[Entity, ...]:
    """The eight entities of a field."""
    return tuple(entity for entity in ENTITIES if entity.theme == theme)


def draw(rng: Random, theme: str | None = None) -> Hypothesis:
    """A hypothesis drawn uniformly, of `theme` if given."""
    cause, effect = rng.sample(of_theme(theme or rng.choice(THEMES)), 2)
    return Hypothesis(
        rng.choice(OPENINGS),
        cause,
        rng.choice(VERBS),
        effect,
        rng.choice(SETTINGS),
        rng.choice(tuple(CONSEQUENCES)),
    )


def sample(rng: Random, theme: str | None = None) -> str:
    """A sentence drawn uniformly, of `theme` if given."""
    return str(draw(rng, theme))


def parse(text: str) -> Hypothesis | None:
    """The parts of a coherent sentence; None for every other text. `str` is its inverse."""
    match = _pattern().fullmatch(text)
    if match is None:
        return None
    cause, effect = _BY_NAME[match["cause"]], _BY_NAME[match["effect"]]
    verb = match["verb"].removesuffix("s")
    for consequence in CONSEQUENCES:
        found = Hypothesis(match["opening"], cause, verb, effect, match["setting"], consequence)
        if cause != effect and cause.theme == effect.theme and str(found) == text:
            return found
    return None


def theme(text: str) -> str | None:
    """The field whose words a text uses most, coherent or not; None if it uses none.

    On a tie the field that is named first wins.
    """
    found = Counter(_THEME_OF_WORD[word] for word in words(text) if word in _THEME_OF_WORD)
    return found.most_common(1)[0][0] if found else None


def words(text: str) -> list[str]:
    """Words and punctuation marks, in order."""
    return _WORD.findall(text)


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word and mark that the language and its prompt use, sorted."""
    parts = [PROMPT, *(entity.name for entity in ENTITIES), *OPENINGS, *SETTINGS, ".", ","]
    parts += [form for verb in (*VERBS, "grow", "rise") for form in (verb, verb + "s")]
    parts += [re.sub(r"\{\w+\}", "", tail) for tail in CONSEQUENCES.values()]
    return tuple(sorted({word for part in parts for word in words(part)}))


def _inflect(verb: str, subject: Entity) -> str:
    return verb if subject.plural else verb + "s"


@cache
def _pattern() -> re.Pattern[str]:
    def one_of(name: str, options: object) -> str:
        return f"(?P<{name}>{'|'.join(map(re.escape, options))})"  # type: ignore[call-overload]

    forms = [form for verb in VERBS for form in (verb, verb + "s")]
    return re.compile(
        f"{one_of('opening', OPENINGS)} {one_of('cause', _BY_NAME)} {one_of('verb', forms)} "
        f"{one_of('effect', _BY_NAME)} {one_of('setting', SETTINGS)}, (?P<tail>.+)\\."
    )
