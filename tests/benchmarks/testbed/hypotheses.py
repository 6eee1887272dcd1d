"""Scientific hypotheses: the demo's language, with probabilities.

We propose that coral reefs strengthen sea ice in warm seasons, so when coral reefs grow,
sea ice rises.
"""

from factory.local.demo import grammar as demo
from factory.local.demo.corpus import FAVOURITE

from .grammar import Grammar, Slot, Values

_ENTITIES = {entity.name: entity for entity in demo.ENTITIES}


def _of_theme(before: Values) -> Values:
    return tuple(entity.name for entity in demo.of_theme(before[0]))


def _render(values: Values) -> str:
    _, opening, cause, verb, effect, setting, consequence = values
    parts = (opening, _ENTITIES[cause], verb, _ENTITIES[effect], setting, consequence)
    return str(demo.Hypothesis(*parts))


def _read(text: str) -> Values | None:
    found = demo.parse(text)
    if found is None:
        return None
    cause, effect = found.cause.name, found.effect.name
    return found.theme, found.opening, cause, found.verb, effect, found.setting, found.consequence


HYPOTHESES = Grammar(
    name="hypotheses",
    prompt=demo.PROMPT,
    slots=(
        Slot("theme", lambda _: demo.THEMES),
        Slot("opening", lambda _: demo.OPENINGS, kept=(2, 4, 8)),
        Slot("cause", _of_theme, kept=(3, 4, 6, 8)),
        Slot("verb", lambda _: demo.VERBS, kept=(1, 2, 3)),
        Slot("effect", _of_theme, lambda before: before[2:3], kept=(3, 4, 6, 8)),
        Slot("setting", lambda _: demo.SETTINGS, kept=(2, 4, 8)),
        Slot("consequence", lambda _: tuple(demo.CONSEQUENCES)),
    ),
    render=_render,
    read=_read,
    entities={entity.name: entity.theme for entity in demo.ENTITIES},
    lexicon=demo.vocabulary(),
    favourite=FAVOURITE,
)
