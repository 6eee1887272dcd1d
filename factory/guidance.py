"""How a token is chosen: the settings of guided decoding, validated. Standard library only.

Words and maths: O'Neill et al., arXiv 2308.07645 (`rule="paper"`); our centred, masked form
is `rule="steer"`. The functions that use these settings are in `workers.decoding`.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

Rule = Literal["steer", "paper", "contrastive", "avoidance", "correlated"]

GAMMA_BOUNDS = (-10.0, 10.0)
ETA_BOUNDS = (0.0, 10.0)
TEMPERATURE_BOUNDS = (0.0, 10.0)
TOP_K_BOUNDS = (0, 1_000_000)
NEW_TOKENS_BOUNDS = (1, 32_768)


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """What is added to the expert's log-probabilities.

    rule     "steer": E + γ(E − B) − η(N − C); "paper": (1 + γ)E − γB − ηN;
             "contrastive": E − γB − η(N − C), contrastive decoding with γ = 1, η = 0
             (Li et al., arXiv 2210.15097). Classifier-free guidance with a negative prompt and
             guidance scale s (arXiv 2306.17806) is "steer" with η = s − 1 and no centre.
             "avoidance": E + γ(E − B) − ηS, S how alike a token would make the text to the
             negatives, 0 to 1, after arXiv 2509.02170;
             "correlated": E + γ(E − B) − η(N − E), N the expert in another sample's place:
             after the prompt and as many of its tokens, after arXiv 2411.08553
    gamma    γ, towards the expert and away from the base; may be negative
    eta      η, away from the negative prompt
    alpha    mask: keep tokens with p_expert ≥ alpha · max p_expert; 0 masks nothing
    nucleus  mask: keep the smallest set holding this mass of p_expert; 1 masks nothing
    Both masks are decided on the expert alone. Left out, `nucleus` is .95 for "steer" and 1
    for the other rules. Raises ValueError naming the field that is out of range.
    """

    rule: Rule = "steer"
    gamma: float = 0.0
    eta: float = 0.5
    alpha: float = 0.0
    nucleus: float | None = None

    def __post_init__(self) -> None:
        if self.nucleus is None:
            object.__setattr__(self, "nucleus", 0.95 if self.rule == "steer" else 1.0)
        _check(self.rule in get_args(Rule), "rule", f"must be one of {', '.join(get_args(Rule))}")
        _check(_within(self.gamma, *GAMMA_BOUNDS), "gamma", "must be between -10 and 10")
        _check(_within(self.eta, *ETA_BOUNDS), "eta", "must be between 0 and 10")
        _check(_within(self.alpha, 0, 1), "alpha", "must be between 0 and 1")
        _check(_within(self.nucleus, 0, 1) and self.mass > 0, "nucleus", "must be in (0, 1]")

    @property
    def mass(self) -> float:
        """The nucleus mask's mass, never None."""
        return 1.0 if self.nucleus is None else self.nucleus

    @property
    def masks(self) -> bool:
        """Whether tokens are left out, whatever they score."""
        return self.alpha > 0 or self.mass < 1

    @property
    def uses_base(self) -> bool:
        """Whether the base's logits can change a score."""
        return self.gamma != 0

    @property
    def uses_center(self) -> bool:
        """Whether a centre takes the expert's place in the η term."""
        return self.rule in ("steer", "contrastive")

    @property
    def uses_negative(self) -> bool:
        """Whether the negative prompt's logits can change a score."""
        return self.eta != 0


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a token is drawn from the scores. Applied in this order.

    temperature     divides the scores; 0 is greedy
    top_k           keep the k best scores; 0 keeps all
    top_p           keep the smallest set holding this mass of the softmax of the scores
    min_p           keep tokens with p ≥ min_p · max p; 0 keeps all
    typical_p       keep the smallest set of tokens, those whose surprise is nearest to the
                    entropy first, that holds this mass (Meister et al., arXiv 2202.00666)
    max_new_tokens  a row ends here at the latest
    Raises ValueError naming the field that is out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    max_new_tokens: int = 80

    def __post_init__(self) -> None:
        _check(
            _within(self.temperature, *TEMPERATURE_BOUNDS),
            "temperature",
            "must be between 0 and 10",
        )
        _check(_whole(self.top_k, *TOP_K_BOUNDS), "top_k", "must be a whole number, 0 or more")
        _check(_within(self.top_p, 0, 1) and self.top_p > 0, "top_p", "must be in (0, 1]")
        _check(_within(self.min_p, 0, 1), "min_p", "must be between 0 and 1")
        inside = _within(self.typical_p, 0, 1) and self.typical_p > 0
        _check(inside, "typical_p", "must be in (0, 1]")
        _check(
            _whole(self.max_new_tokens, *NEW_TOKENS_BOUNDS),
            "max_new_tokens",
            "must be a whole number between 1 and 32768",
        )

    @property
    def filters(self) -> bool:
        """Whether any token is left out beside the masked ones."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0 or self.typical_p < 1


def _check(holds: bool, field: str, reason: str) -> None:
    if not holds:
        raise ValueError(f"{field} {reason}")


def _within(value: object, low: float, high: float) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and low <= value <= high  # type: ignore[arg-type,operator]


def _whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
