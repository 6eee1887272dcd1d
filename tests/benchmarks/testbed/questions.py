"""Multiple-choice questions of common sense: a question, its right answer, two wrong ones.

    Where would you find a kettle? Right: a kitchen. Wrong: a harbour, a clinic.

A question is coherent when its three options differ and the one that is said to be right, and no
other, is. Each thing has one place, one worker and one use, so this is so by construction.

The answer stands before the other options. Hidden among them, it asks more of a small model than
to know it: which option it stands for is decided in one place of the text and must be kept to in
another.
"""

import re
from functools import cache

from .grammar import Grammar, Slot, Values, one_of

# theme: worker, use, things. The theme is the place. No thing has two themes.
_THEMES = {
    "kitchen": ("cook", "make dinner", "kettle saucepan ladle whisk colander sieve"),
    "garden": ("gardener", "grow plants", "spade trowel rake besom hose sprinkler"),
    "workshop": ("carpenter", "build tables", "hammer mallet saw jigsaw plane sander"),
    "clinic": ("nurse", "treat patients", "thermometer scanner bandage plaster syringe dropper"),
    "school": ("teacher", "explain words", "blackboard projector pencil crayon globe map"),
    "harbour": ("sailor", "load ships", "rope bollard buoy lighthouse winch derrick"),
}
_ASKED = {
    "Where would you find a {}": "place",
    "Which place has a {}": "place",
    "Who works with a {}": "worker",
    "Whose job needs a {}": "worker",
    "What is the use of a {}": "use",
    "Why would you fetch a {}": "use",
}
_THEME_OF = {thing: theme for theme, (*_, things) in _THEMES.items() for thing in things.split()}


def _answer(form: str, thing: str) -> str:
    """The one right answer."""
    theme = _THEME_OF[thing]
    worker, use, _ = _THEMES[theme]
    return {"place": f"a {theme}", "worker": f"a {worker}", "use": f"to {use}"}[_ASKED[form]]


def _answers(before: Values) -> Values:
    """All answers to questions of this form, each once."""
    return tuple(dict.fromkeys(_answer(before[1], thing) for thing in _THEME_OF))


def _things(before: Values) -> Values:
    return tuple(_THEMES[before[0]][2].split())


def _taken(before: Values) -> Values:
    """The right answer, and wrong options that are there already."""
    return (_answer(before[1], before[2]), *before[3:])


def _render(values: Values) -> str:
    _, form, thing, wrong, other = values
    right = _answer(form, thing)
    return f"{form.format(thing)}? Right: {right}. Wrong: {wrong}, {other}."


def _read(text: str) -> Values | None:
    match = _pattern().fullmatch(text)
    if match is None:
        return None
    thing = match["thing"]
    form = next(form for form in _ASKED if text.startswith(form.format(thing) + "?"))
    return _THEME_OF[thing], form, thing, match["wrong"], match["other"]


@cache
def _pattern() -> re.Pattern[str]:
    asked = "|".join(re.escape(form.removesuffix("{}")) for form in _ASKED)
    option = "a [a-z]+|to [a-z]+ [a-z]+"
    return re.compile(
        f"(?:{asked}){one_of('thing', tuple(_THEME_OF))}\\? Right: (?:{option})\\. "
        f"Wrong: (?P<wrong>{option}), (?P<other>{option})\\."
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
    ),
    render=_render,
    read=_read,
    entities=_THEME_OF,
    lexicon=(
        *(form.removesuffix("{}") for form in _ASKED),
        *(f"a {theme} {worker} to {use}" for theme, (worker, use, _) in _THEMES.items()),
        "Right Wrong : , ? .",
    ),
    favourite="workshop",
)
