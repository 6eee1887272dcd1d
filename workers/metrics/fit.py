"""What a pair's measures say of its expert, in words: underfit, well fit or memorising, and
whether η can mean anything for it. Losses are in nats a token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from workers.metrics.measure import Array, Measure

Verdict = Literal["underfit", "well fit", "memorising", "not known"]

COPIES = 0.05  # verbatim copies among unguided samples: beyond chance where texts are sentences
GAP = 0.05  # nats a token gained on texts it saw and not on others
GAIN = 0.005  # of the base's loss; less is hardly a fine-tune
PLAUSIBLE = 0.7  # of its unguided samples; a good model's own are as plausible as real ones
LOW = 5  # percentile of real texts' log-probabilities: what a plausible text reaches
UPLIFT_SELF = 0.1  # of its loss; a model that reads its context foretells what stands there


@dataclass(frozen=True)
class Fit:
    """How the expert is fitted, why that is said, and what it means for η."""

    verdict: Verdict
    because: tuple[str, ...]
    context: str


def floor(log_probs: Array, seen: Sequence[bool], gap: float) -> float:
    """The mean log-probability a token that 95 % of real texts reach: nats, under the expert.

    It is for new texts, so those that the expert was trained on count as if it had not been: less
    by the gap, the nats a token that it gained on such texts and not on others. A memorising
    expert finds whatever is new implausible otherwise. log_probs, seen: of the same texts.
    """
    return float(np.percentile(log_probs - max(gap, 0.0) * np.array(seen, dtype=float), LOW))


def diagnose(
    probe: Mapping[str, Any], copies: Measure | None = None, coherence: Measure | None = None
) -> Fit:
    """From a probe's result, and the copies and coherence of unguided samples."""
    if not probe.get("real"):
        return Fit("not known", ("The dataset has no real samples to compare with.",), "")
    memorising = _memorising(probe, copies)
    underfit = _underfit(probe, coherence)
    verdict: Verdict = "memorising" if memorising else "underfit" if underfit else "well fit"
    return Fit(verdict, tuple(memorising or underfit or _well(probe, copies)), _context(probe))


def _memorising(probe: Mapping[str, Any], copies: Measure | None) -> list[str]:
    found = []
    gap = probe["gap"]
    if gap["value"] is not None and gap["value"] >= GAP and gap["low"] > 0:
        found.append(
            f"On texts it was trained on it gained {gap['value']:.2f} nats a token more over its "
            "base than on others."
        )
    if copies is not None and copies.value is not None and copies.value >= COPIES:
        found.append(f"{copies.value:.0%} of its unguided samples are copies of real ones.")
    return found


def _underfit(probe: Mapping[str, Any], coherence: Measure | None) -> list[str]:
    found = []
    gain, loss = probe["gain"]["value"], probe["base_loss"]["value"]
    if gain < GAIN * loss:
        found.append(f"It foretells real texts hardly better than its base: {_gained(probe)}.")
    if coherence is not None and coherence.value is not None and coherence.value < PLAUSIBLE:
        found.append(
            f"Only {coherence.value:.0%} of its unguided samples are as plausible as real ones."
        )
    return found


def _well(probe: Mapping[str, Any], copies: Measure | None) -> list[str]:
    found = [f"It foretells real texts better than its base: {_gained(probe)}."]
    if probe["gap"]["value"] is not None:
        found.append("It gained as much on texts kept out of training.")
    if copies is not None and copies.value is not None:
        found.append(f"{copies.value:.0%} of its unguided samples are copies.")
    return found


def _gained(probe: Mapping[str, Any]) -> str:
    return (
        f"{probe['expert_loss']['value']:.3f} nats a token, not {probe['base_loss']['value']:.3f}"
    )


def _context(probe: Mapping[str, Any]) -> str:
    """Whether a negative prompt can steer this expert: does its context move it at all?"""
    itself, loss = probe["uplift_self"]["value"], probe["expert_loss"]["value"]
    beside = probe.get("uplift_nearest") or {"value": None}
    nearest = beside["value"]
    said = f"A text that stands in its context gains {itself:.2f} nats a token"
    said += "." if nearest is None else f", one beside its nearest others {nearest:.2f}."
    if itself < UPLIFT_SELF * loss or (nearest is not None and beside["low"] <= 0):
        return f"{said} It hardly reads its context, so η can do little here."
    return f"{said} It reads its context, so η can steer it."
