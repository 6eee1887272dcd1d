"""How things are said: plain words, signs and times. The template filters."""

import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from factory.spec import UNITS, JobKind
from factory.tables import Job

SAMPLE_STATES = ("accepted", "fixed", "rejected", "in_review", "generated", "filtered")

SIGNS: Mapping[str, tuple[str, str]] = {  # meaning → (sign, class of its colour)
    "expert": ("▲", "expert"),
    "negative": ("▼", "negative"),
    "learned": ("◆", "learned"),
    "center": ("◎", "accepted"),
    "base": ("●", "base"),
    "real": ("●", "base"),
    "synthetic": ("○", "base"),
    "corrected": ("✎", "fixed"),
    "accepted": ("✓", "accepted"),
    "accept": ("✓", "accepted"),
    "rejected": ("✕", "rejected"),
    "reject": ("✕", "rejected"),
    "fixed": ("✎", "fixed"),
    "fix": ("✎", "fixed"),
    "in_review": ("…", "base"),
    "generated": ("○", "base"),
    "filtered": ("–", "base"),
    "pending": ("○", "base"),
    "running": ("▸", "plain"),
    "leased": ("▸", "plain"),
    "paused": ("‖", "base"),
    "succeeded": ("✓", "good"),
    "done": ("✓", "good"),
    "partial": ("◐", "bad"),
    "failed": ("✕", "bad"),
    "dead": ("✕", "bad"),
    "cancelled": ("■", "base"),
    "pinned": ("◆", "negative"),
    "near_copy": ("≈", "bad"),
    "good": ("✓", "good"),
    "bad": ("✕", "bad"),
}

PLAIN: Mapping[str, str] = {
    "in_review": "in review",
    "synthetic": "generated",
    "generated": "not reviewed",
    "filtered": "filtered out",
    "pending": "waiting",
    "leased": "running",
    "partial": "partly done",
    "dead": "given up",
    "succeeded": "done",
    "center": "centre",
    "off_topic": "off topic",
    "eos": "the model ended it",
    "length": "the longest allowed",
    "stop": "a stop text",
}

_STEPS = ((60, "s", 1), (3600, "min", 60), (86_400, "h", 3600), (30 * 86_400, "d", 86_400))


def sign(meaning: str) -> str:
    """The sign of a meaning; empty when it has none."""
    return SIGNS.get(meaning, ("", ""))[0]


def sign_class(meaning: str) -> str:
    """The class that colours a meaning's sign."""
    return SIGNS.get(meaning, ("", ""))[1]


def plain(word: str) -> str:
    """A state, verdict or reason as people say it."""
    return PLAIN.get(word, word)


def number(value: float | None) -> str:
    """12,345, or a number with three digits after the point at most; – for none."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}".rstrip("0").rstrip(".")


def lever(value: float | None) -> str:
    """A setting as short as it can be said: .5, −.3, 1."""
    said = number(value).replace("-", "−")
    return said.replace("0.", ".", 1) if said.lstrip("−").startswith("0.") else said


def percent(part: float, whole: float) -> str:
    """A share in whole percent; – when there is nothing to share."""
    return f"{100 * part / whole:.0f} %" if whole else "–"


def duration(seconds: float | None) -> str:
    """2 min 10 s: the two largest units, without those that are 0."""
    if seconds is None:
        return "–"
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    units = ((hours, "h"), (minutes, "min"), (left if not hours else 0, "s"))
    return " ".join(f"{count} {unit}" for count, unit in units if count) or "less than 1 s"


def ago(when: datetime) -> str:
    """How long ago, in one unit; the day after a month."""
    seconds = (datetime.now(UTC) - when).total_seconds()
    if seconds < 5:
        return "just now"
    for limit, unit, size in _STEPS:
        if seconds < limit:
            return f"{int(seconds // size)} {unit} ago"
    return when.astimezone(UTC).strftime("%d %b %Y")


def exact(when: datetime) -> str:
    """The time to the second, in UTC."""
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def rfc3339(when: datetime) -> str:
    """For the datetime attribute."""
    return when.astimezone(UTC).isoformat(timespec="seconds")


def short(id_: uuid.UUID | str) -> str:
    """The end of an id: its beginning is the time, which many share."""
    return f"…{str(id_)[-8:]}"


def job_settings(job: Job) -> str:
    """A job's main settings in one line."""
    spec = job.spec
    if job.kind == "train":
        return f"{spec['method']} · {spec['steps']} steps · seed {spec['seed']}"
    if job.kind == "evaluate":
        return f"{job.count} measures · at most {number(spec['limit'])} samples"
    if job.kind == "probe":
        return f"at most {number(spec['limit'])} real samples"
    if job.kind == "sweep":
        tried = len((job.result or {}).get("points", ()))
        each = f"{spec['count']} samples each"
        return f"{spec['method']} · {tried} settings · {each} · seed {spec['seed']}"
    guidance = spec["guidance"]
    levers = " ".join(
        f"{symbol} {lever(guidance[name])}"
        for symbol, name in (("γ", "gamma"), ("η", "eta"), ("α", "alpha"))
    )
    return f"{guidance['rule']} {levers} · seed {spec['seed']}"


def job_title(job: Job) -> str:
    """What a job does, in a few words."""
    spec = job.spec
    if job.kind == "train":
        return f"Train {spec['model']} on {spec['dataset']}"
    if job.kind == "evaluate":
        of = f", job {short(spec['job'])}" if spec["job"] else ""
        return f"Evaluate {spec['dataset']}{of}"
    if job.kind == "probe":
        return f"Probe {spec['model']} on {spec['dataset']}"
    if job.kind == "sweep":
        return f"Settings for {spec['dataset']} with {spec['model']}"
    return f"{spec['dataset']} · {number(job.count)} samples"


def unit(kind: JobKind) -> str:
    """What a job of this kind counts."""
    return UNITS[kind]


def signed(value: float | None) -> str:
    """An effect with its sign: +.31, −1.2; – when there was none."""
    if value is None:
        return "–"
    return f"{value:+.2f}".replace("-", "−") if round(value, 2) else "0.00"


def signed_int(value: int) -> str:
    """A whole number with its sign: +3, −12."""
    return f"{value:+d}".replace("-", "−")


def share_of(probability: float | None) -> str:
    """A probability in percent; – when it is not known."""
    return "–" if probability is None else f"{100 * probability:.1f}"


def short_share(value: float | None) -> str:
    """A share with two digits: .47, −.06, 1.00; – when it is not known."""
    return "–" if value is None else f"{value:.2f}".replace("0.", ".", 1).replace("-", "−")


def pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """Names as the options of a choice."""
    return [(name, name) for name in names]


FILTERS: Mapping[str, Callable[..., Any]] = {
    "sign": sign,
    "sign_class": sign_class,
    "plain": plain,
    "number": number,
    "lever": lever,
    "percent": percent,
    "duration": duration,
    "ago": ago,
    "exact": exact,
    "rfc3339": rfc3339,
    "short": short,
    "job_settings": job_settings,
    "job_title": job_title,
    "pairs": pairs,
    "signed": signed,
    "share_of": share_of,
    "signed_int": signed_int,
    "short_share": short_share,
    "unit": unit,
}
