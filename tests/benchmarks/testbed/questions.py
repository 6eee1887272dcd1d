"""Multiple-choice questions of common sense, with their answer.

    Where would you find a kettle: a harbour, a kitchen or a clinic? Answer: a kitchen.

A question is coherent when its three options differ, exactly one of them is right, and the answer
is that one. Each thing has one place, one worker and one use, so this is so by construction.
"""

import re
from functools import cache

from .grammar import Grammar, Slot, Values, one_of

# theme: worker, then uses with their things. The theme is the place. No thing has two themes.
_THEMES = {
    "kitchen": ("cook", "heat food: kettle saucepan", "stir batter: ladle whisk",
                "drain pasta: colander sieve"),
    "garden": ("gardener", "dig beds: spade trowel", "gather leaves: rake besom",
               "water plants: hose sprinkler"),
    "workshop": ("carpenter", "drive nails: hammer mallet", "cut planks: saw jigsaw",
                 "smooth wood: plane sander"),
    "clinic": ("nurse", "measure fever: thermometer scanner", "cover wounds: bandage plaster",
               "give medicine: syringe dropper"),
    "school": ("teacher", "show words: blackboard projector", "draw pictures: pencil crayon",
               "find countries: globe map"),
    "harbour": ("sailor", "tie boats: rope bollard", "mark shallows: buoy lighthouse",
                "lift cargo: winch derrick"),
}  # fmt: skip
_ASKED = {
    "Where would you find a {}": "place",
    "Which place has a {}": "place",
    "Who works with a {}": "worker",
    "Whose job needs a {}": "worker",
    "What do you do with a {}": "use",
    "Why would you fetch a {}": "use",
}
_USES = {
    thing: f"to {line.split(': ')[0]}"
    for _, *lines in _THEMES.values()
    for line in lines
    for thing in line.split(": ")[1].split()
}
_THEME_OF = {
    thing: theme
    for theme, (_, *lines) in _THEMES.items()
    for line in lines
    for thing in line.split(": ")[1].split()
}
_PLACES = ("first", "second", "third")


def _answer(form: str, thing: str) -> str:
    """The one right answer."""
    match _ASKED[form]:
        case "place":
            return f"a {_THEME_OF[thing]}"
        case "worker":
            return f"a {_THEMES[_THEME_OF[thing]][0]}"
        case _:
            return _USES[thing]


def _answers(before: Values) -> Values:
    """All answers to questions of this form, each once."""
    return tuple(dict.fromkeys(_answer(before[1], thing) for thing in _THEME_OF))


def _things(before: Values) -> Values:
    return tuple(thing for thing, theme in _THEME_OF.items() if theme == before[0])


def _taken(before: Values) -> Values:
    """The right answer, and wrong options that are there already."""
    return (_answer(before[1], before[2]), *before[3:])


def _render(values: Values) -> str:
    _, form, thing, wrong, other, place = values
    right = _answer(form, thing)
    options = [wrong, other]
    options.insert(_PLACES.index(place), right)
    return f"{form.format(thing)}: {options[0]}, {options[1]} or {options[2]}? Answer: {right}."


def _read(text: str) -> Values | None:
    match = _pattern().fullmatch(text)
    if match is None:
        return None
    form = next(form for form in _ASKED if text.startswith(form.format(match["thing"]) + ":"))
    options = [match["a"], match["b"], match["c"]]
    right = _answer(form, match["thing"])
    if options.count(right) != 1:
        return None
    wrong = [option for option in options if option != right]
    return _THEME_OF[match["thing"]], form, match["thing"], *wrong, _PLACES[options.index(right)]


@cache
def _pattern() -> re.Pattern[str]:
    asked = "|".join(re.escape(form.removesuffix("{}")) for form in _ASKED)
    options = "a [a-z]+|to [a-z]+ [a-z]+"
    return re.compile(
        f"(?:{asked}){one_of('thing', tuple(_THEME_OF))}: "
        f"(?P<a>{options}), (?P<b>{options}) or (?P<c>{options})\\? Answer: (?:{options})\\."
    )


QUESTIONS = Grammar(
    name="questions",
    prompt="Question:",
    slots=(
        Slot("theme", lambda _: tuple(_THEMES)),
        Slot("form", lambda _: tuple(_ASKED), kept=(1, 2, 3, 6)),
        Slot("thing", _things, kept=(2, 3, 6)),
        Slot("wrong", _answers, _taken),
        Slot("other", _answers, _taken),
        Slot("place", lambda _: _PLACES),
    ),
    render=_render,
    read=_read,
    entities=_THEME_OF,
    lexicon=(
        *(form.removesuffix("{}") for form in _ASKED),
        *(f"a {theme} {worker}" for theme, (worker, *_) in _THEMES.items()),
        *_USES.values(),
        "Answer : , . ? or",
    ),
    favourite="workshop",
)
