"""The rules that are compared, each with the settings that it is tuned over: six at most.

Names are those of the job presets in `factory.spec`; CFG is given the running output as its
negative prompt, as the paper's rule and ours are. A rule with one number is tried over its whole
useful range. Ours has too many for that: its six are the best few of a hundred, tried on the
expert that all rules are tuned on, which no figure comes from.
"""

from collections.abc import Sequence
from random import Random

from factory.guidance import Guidance, Rule, Sampling
from tests.benchmarks.study.beds import ROOM, Setting

NEGATIVES = 3
ALIKE = 8  # texts that "avoidance" keeps away from
WAVE = 32  # samples made at a time, so that all but the first few have others to avoid
UNMASKED = {"eta": 0.0, "nucleus": 1.0}


def own_output(rng: Random, made: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Three of the texts made so far: what a dataset without reviews steers away from."""
    return rng.sample(made, NEGATIVES) if len(made) >= NEGATIVES else (), ()


def several(rng: Random, made: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Eight of the texts made so far, to be unlike them."""
    return (rng.sample(made, ALIKE) if len(made) >= ALIKE else made), ()


def another(rng: Random, made: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """One of the texts made so far, to be contrasted with."""
    return (rng.sample(made, 1) if made else ()), ()


def plain(**sampling: float) -> Setting:
    """The expert alone, with Hugging Face's kinds of sampling."""
    return Setting(Guidance(**UNMASKED), Sampling(max_new_tokens=ROOM.max_new_tokens, **sampling))  # type: ignore[arg-type]


def steer(
    gamma: float, eta: float, nucleus: float = 0.95, alpha: float = 0.0, temperature: float = 1.0
) -> Setting:
    """Our rule; with η it steers away from its own output."""
    return Setting(
        Guidance(gamma=gamma, eta=eta, nucleus=nucleus, alpha=alpha),
        Sampling(max_new_tokens=ROOM.max_new_tokens, temperature=temperature),
        own_output,
        slots=WAVE,
    )


def paper(gamma: float, eta: float, top_k: int) -> Setting:
    """The paper's rule on its own output."""
    sampling = Sampling(max_new_tokens=ROOM.max_new_tokens, top_k=top_k)
    return Setting(Guidance(rule="paper", gamma=gamma, eta=eta), sampling, own_output, slots=WAVE)


def neighbours(rule: Rule, eta: float, temperature: float) -> Setting:
    """A rule that takes other samples for what they are, not for a context."""
    sampling = Sampling(max_new_tokens=ROOM.max_new_tokens, temperature=temperature)
    pick = several if rule == "avoidance" else another
    return Setting(Guidance(rule=rule, eta=eta), sampling, pick, slots=WAVE)


RULES: dict[str, tuple[Setting, ...]] = {
    "plain": (plain(),),
    "temperature": tuple(plain(temperature=t) for t in (0.5, 0.7, 0.85, 1.2, 1.4, 1.6)),
    "nucleus": tuple(plain(top_p=p) for p in (0.7, 0.8, 0.9, 0.95, 0.98, 0.99)),
    "min-p": tuple(
        plain(min_p=p, temperature=t) for p in (0.05, 0.1, 0.2) for t in (1.0, 1.5)
    ),
    "typical": tuple(plain(typical_p=p) for p in (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)),
    "alpha-mask": tuple(
        Setting(Guidance(eta=0, nucleus=1, alpha=a)) for a in (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
    ),
    "contrastive": tuple(
        Setting(Guidance(rule="contrastive", gamma=gamma, eta=0, alpha=alpha))
        for gamma in (0.5, 1.0)
        for alpha in (0.05, 0.1, 0.3)
    ),
    "cfg": tuple(
        steer(0, eta, 1.0, temperature=t) for eta in (0.25, 0.5, 1.0) for t in (1.0, 0.7)
    ),
    "paper": (
        paper(0.2, 0.2, 10),
        paper(0.5, 0.2, 10),
        paper(0.2, 0.1, 10),
        paper(0.5, 0.5, 10),
        paper(0.2, 0.2, 0),
        paper(0.5, 0.2, 0),
    ),
    "avoidance": tuple(
        neighbours("avoidance", eta, t) for eta in (1.0, 2.0, 4.0) for t in (1.0, 0.7)
    ),
    "correlated": tuple(
        neighbours("correlated", eta, t) for eta in (0.25, 0.5, 1.0) for t in (1.0, 0.7)
    ),
    "steer": (
        steer(-1.0, 0, 0.9, temperature=0.8),
        steer(-1.0, 0, 0.95, temperature=0.8),
        steer(-0.5, 0, 0.9),
        steer(0.5, 0.5, 0.9, temperature=0.8),
        steer(-0.5, 0.5, 0.7),
        steer(0, 0.5, 0.7),
    ),
}  # fmt: skip
