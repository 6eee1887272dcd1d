"""What a pair's measures say of its expert, in words: underfit, well fit or memorising, and
whether η can mean anything for it. Thresholds in nats a token or shares, with their reasons."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from workers.metrics.measure import Measure

Verdict = Literal["underfit", "well fit", "memorising", "not known"]

COPIES = 0.05  # verbatim copies among unguided samples: beyond chance where texts are sentences
GAP = 0.5  # a text it saw is e^.5 = 1.6 times likelier a token than one it did not see
GAIN = 0.1  # over the base; less is hardly a fine-tune
PLAUSIBLE = 0.7  # of its unguided samples; a good model's own are as plausible as real ones
UPLIFT_SELF = 0.5  # a model that reads its context finds a text that stands in it far likelier
UPLIFT_NEAREST = 0.02


@dataclass(frozen=True)
class Fit:
    """How the expert is fitted, why that is said, and what it means for η."""

    verdict: Verdict
    because: tuple[str, ...]
    context: str


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
    gap = _gap(probe)
    if gap is not None and gap >= GAP:
        found.append(
            f"Texts it was trained on cost {gap:.2f} nats a token less than those kept out."
        )
    if copies is not None and copies.value is not None and copies.value >= COPIES:
        found.append(f"{copies.value:.0%} of its unguided samples are copies of real ones.")
    return found


def _underfit(probe: Mapping[str, Any], coherence: Measure | None) -> list[str]:
    found = []
    gain = probe["base_loss"]["value"] - probe["expert_loss"]["value"]
    if gain < GAIN:
        found.append(f"It foretells real texts only {gain:.2f} nats a token better than its base.")
    if coherence is not None and coherence.value is not None and coherence.value < PLAUSIBLE:
        found.append(
            f"Only {coherence.value:.0%} of its unguided samples are as plausible as real ones."
        )
    return found


def _well(probe: Mapping[str, Any], copies: Measure | None) -> list[str]:
    gain = probe["base_loss"]["value"] - probe["expert_loss"]["value"]
    found = [f"It foretells real texts {gain:.2f} nats a token better than its base."]
    gap = _gap(probe)
    if gap is not None:
        found.append(f"Texts kept out of training cost {gap:+.2f} nats a token more: no gap.")
    if copies is not None and copies.value is not None:
        found.append(f"{copies.value:.0%} of its unguided samples are copies.")
    return found


def _gap(probe: Mapping[str, Any]) -> float | None:
    """Loss of texts kept out of training minus that of texts trained on; None: not known."""
    seen, unseen = probe["seen_loss"]["value"], probe["unseen_loss"]["value"]
    return None if seen is None or unseen is None else unseen - seen


def _context(probe: Mapping[str, Any]) -> str:
    """Whether a negative prompt can steer this expert: does its context move it at all?"""
    itself = probe["uplift_self"]["value"]
    nearest = (probe.get("uplift_nearest") or {}).get("value")
    said = f"A text that stands in its context gains {itself:.2f} nats a token"
    said += "." if nearest is None else f", one beside its nearest others {nearest:.2f}."
    if itself < UPLIFT_SELF or (nearest is not None and nearest < UPLIFT_NEAREST):
        return f"{said} It hardly reads its context, so η can do little here."
    return f"{said} It reads its context, so η can steer it."
