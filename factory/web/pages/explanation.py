"""What moved each token, as bars: how far γ, η and learned levers changed its score, in nats."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HEIGHT = 56  # of a token's drawing, in its own units; the axis is in the middle
FULL = 26  # the longest bar
FLOOR = 0.5  # nats: shorter scales would draw noise large
LEARNED = {"verdict_head": "verdict head", "adapters": "adapters"}


@dataclass(frozen=True)
class Bar:
    """One bar of a drawing: y and height, in its units."""

    y: float
    height: float


@dataclass(frozen=True)
class Likely:
    """A token that could have come, and how likely it was among the plausible ones."""

    shown: str
    probability: float
    drawn: bool  # it is the one that came


@dataclass(frozen=True)
class Token:
    """One token with its effects. Log-probabilities are natural; an effect is what a term added to
    the token's score: None when its stream was not run. `learned`: those of the learned levers
    that acted, by their names; their bar is of the sum. `…_five`: the likeliest tokens in its
    place, and itself where it is none of them; empty when not known."""

    shown: str
    expert_effect: float | None
    negative_effect: float | None
    learned: Mapping[str, float]
    expert_bar: Bar | None
    negative_bar: Bar | None
    learned_bar: Bar | None
    probability: float
    base: float | None
    negative: float | None
    center: float | None
    score: float
    unguided: str
    changed: bool
    survivors: int
    guided_five: Sequence[Likely]
    unguided_five: Sequence[Likely]


def first_changed(tokens: Sequence[Token]) -> int:
    """The place of the first token that guidance changed; 0 when it changed none."""
    return next((place for place, token in enumerate(tokens) if token.changed), 0)


def explained(tokens: Sequence[Mapping[str, Any]], guidance: Mapping[str, Any]) -> list[Token]:
    """Tokens of an explanation with their bars, all to one scale.

    γ adds γ(E − B); η adds −η(N − C) with C = E where there is no centre, and −ηN with rule
    "paper" (drawn against the expert too, so that the rules can be compared). With rule "avoidance"
    N is the likeness S, from 0 to 1, and η adds −ηS.
    """
    effects = [(*_effects(token, guidance), _learned(token)) for token in tokens]
    lengths = [abs(e) for *both, learned in effects for e in (*both, sum(learned.values())) if e]
    scale = FULL / max([*lengths, FLOOR])
    alike = guidance["rule"] == "avoidance"
    return [_token(token, *each, scale, alike) for token, each in zip(tokens, effects, strict=True)]


def _effects(
    token: Mapping[str, Any], guidance: Mapping[str, Any]
) -> tuple[float | None, float | None]:
    expert, base, negative = token["expert"], token["base"], token["negative"]
    center = expert if token["center"] is None else token["center"]
    center = 0.0 if guidance["rule"] == "avoidance" else center
    towards = None if base is None else guidance["gamma"] * (expert - base)
    away = None if negative is None else -guidance["eta"] * (negative - center)
    return towards, away


def _learned(token: Mapping[str, Any]) -> dict[str, float]:
    """What each learned lever that acted added, by its name."""
    return {name: token[key] for key, name in LEARNED.items() if token.get(key) is not None}


def _token(
    token: Mapping[str, Any],
    towards: float | None,
    away: float | None,
    learned: Mapping[str, float],
    scale: float,
    alike: bool,
) -> Token:
    return Token(
        shown=_visible(token["token"]),
        expert_effect=towards,
        negative_effect=away,
        learned=learned,
        expert_bar=_bar(towards, scale),
        negative_bar=_bar(away, scale),
        learned_bar=_bar(sum(learned.values()) if learned else None, scale),
        probability=math.exp(token["expert"]),
        base=_probability(token["base"]),
        negative=token["negative"] if alike else _probability(token["negative"]),
        center=_probability(token["center"]),
        score=token["score"],
        unguided=_visible(token["unguided"]),
        changed=token["unguided"] != token["token"],
        survivors=token["survivors"],
        guided_five=_likeliest(token, "guided"),
        unguided_five=_likeliest(token, "unguided"),
    )


def _likeliest(token: Mapping[str, Any], side: str) -> Sequence[Likely]:
    """The likeliest tokens of a side; the one that came after them when it is none of them."""
    found = token.get("likeliest")
    if not found:
        return ()
    named = [(each["token"], each["log_probability"]) for each in found[side]]
    came = found["drawn"][side]
    if came is not None and token["token"] not in dict(named):
        named.append((token["token"], came))
    return [Likely(_visible(name), math.exp(p), name == token["token"]) for name, p in named]


def _bar(effect: float | None, scale: float) -> Bar | None:
    """Up from the axis when the token was made likelier, down when less likely; None when the
    bar would be too short to be seen."""
    height = round(abs(effect or 0) * scale, 1)
    if effect is None or height < 1:
        return None
    return Bar(HEIGHT / 2 - height if effect > 0 else HEIGHT / 2, height)


def _probability(log_probability: float | None) -> float | None:
    return None if log_probability is None else math.exp(log_probability)


def _visible(piece: str) -> str:
    """A token's piece of text with its blanks made visible at the ends."""
    if not piece.strip(" "):
        return "␣" * max(1, len(piece)) if piece else "∅"
    return piece.replace("\n", "⏎").replace("\t", "⇥")
