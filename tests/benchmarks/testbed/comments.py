"""Labelled comments, toxic and civil, in mild words only.

    toxic: Once again these lazy waiters spoil the soup, what a silly mess.
    civil: As usual this careful baker improves the bread, such a pleasant surprise.

A comment is coherent when its label, adjective, verb and closing have one tone, person and object
belong to one theme, and person, determiner and verb agree in number.
"""

import re
from functools import cache

from .grammar import Grammar, Slot, Values, one_of

# A trailing "+" marks a plural. No word appears in two themes.
_PEOPLE = {
    "kitchen": "baker, waiters+, pastry chef, dishwashers+",
    "garden": "florist, beekeepers+, tree surgeon, mowers+",
    "music": "drummer, violinists+, choir leader, pianists+",
    "sport": "goalkeeper, referees+, swimming coach, sprinters+",
    "traffic": "cyclist, drivers+, bus inspector, couriers+",
    "school": "headmaster, pupils+, lunch monitor, tutors+",
}
_OBJECTS = {
    "kitchen": "soup, bread, gravy, salad, pancakes, dumplings, menu, cutlery",
    "garden": "roses, hedge, lawn, beehives, tulips, greenhouse, compost, fountain",
    "music": "concert, rehearsal, melody, chorus, encore, recording, rhythm, overture",
    "sport": "match, training, penalty, relay, tournament, warmup, trophy, marathon",
    "traffic": "crossing, roundabout, timetable, parking, tunnel, detour, junction, motorway",
    "school": "lesson, homework, timeout, assembly, playground, exam, library, workbook",
}
_TONES = {
    "toxic": {
        "adjective": ("lazy", "silly", "clumsy", "careless", "dull", "grumpy"),
        "verb": ("spoil", "neglect", "wreck", "forget"),
        "closing": ("what a mess", "how very tiresome", "so much for effort", "a sorry sight"),
    },
    "civil": {
        "adjective": ("careful", "gentle", "clever", "patient", "cheerful", "thoughtful"),
        "verb": ("improve", "protect", "polish", "enjoy"),
        "closing": ("what a delight", "how very kind", "so well done", "a lovely sight"),
    },
}
_OPENINGS = ("Once again", "As usual", "It seems that", "I must say", "This week", "Honestly")
_FORMS = {name.strip() for names in _PEOPLE.values() for name in names.split(",")}
_PLURAL = {name.removesuffix("+"): name.endswith("+") for name in _FORMS}


def _people(before: Values) -> Values:
    return tuple(name.strip().removesuffix("+") for name in _PEOPLE[before[0]].split(","))


def _objects(before: Values) -> Values:
    return tuple(_OBJECTS[before[0]].split(", "))


def _of_tone(before: Values, kind: str) -> Values:
    return _TONES[before[1]][kind]


def _render(values: Values) -> str:
    _, label, opening, adjective, person, verb, thing, closing = values
    which, ending = ("these", "") if _PLURAL[person] else ("this", "s")
    return f"{label}: {opening} {which} {adjective} {person} {verb}{ending} the {thing}, {closing}."


def _read(text: str) -> Values | None:
    match = _pattern().fullmatch(text)
    if match is None:
        return None
    theme = next(name for name in _PEOPLE if match["person"] in _people((name,)))
    names = ("label", "opening", "adjective", "person", "verb", "thing", "closing")
    return theme, *(match[name] for name in names)


@cache
def _pattern() -> re.Pattern[str]:
    def any_tone(kind: str) -> Values:
        return tuple(value for tone in _TONES.values() for value in tone[kind])

    things = tuple(thing for names in _OBJECTS.values() for thing in names.split(", "))
    return re.compile(
        f"{one_of('label', tuple(_TONES))}: {one_of('opening', _OPENINGS)} (?:this|these) "
        f"{one_of('adjective', any_tone('adjective'))} {one_of('person', tuple(_PLURAL))} "
        f"{one_of('verb', any_tone('verb'))}s? the {one_of('thing', things)}, "
        f"{one_of('closing', any_tone('closing'))}\\."
    )


COMMENTS = Grammar(
    name="comments",
    prompt="Comment:",
    slots=(
        Slot("theme", lambda _: tuple(_PEOPLE)),
        Slot("label", lambda _: tuple(_TONES), kept=(1, 2)),
        Slot("opening", lambda _: _OPENINGS, kept=(2, 3, 6)),
        Slot("adjective", lambda before: _of_tone(before, "adjective"), kept=(2, 3, 6)),
        Slot("person", _people, kept=(1, 2, 4)),
        Slot("verb", lambda before: _of_tone(before, "verb"), kept=(1, 2, 4)),
        Slot("object", _objects, kept=(2, 4, 8)),
        Slot("closing", lambda before: _of_tone(before, "closing"), kept=(1, 2, 4)),
    ),
    render=_render,
    read=_read,
    entities={name: theme for theme in _PEOPLE for name in _people((theme,))}
    | {name: theme for theme in _OBJECTS for name in _objects((theme,))},
    lexicon=(
        *_OPENINGS,
        *_TONES,
        *(value for tone in _TONES.values() for values in tone.values() for value in values),
        *(f"{verb}s" for tone in _TONES.values() for verb in tone["verb"]),
        "this these the : , .",
    ),
    favourite="garden",
)
