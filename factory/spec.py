"""What can be submitted: job specs, as the API, the command line and YAML files accept them."""

import hashlib
import secrets
import uuid
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator

from factory import guidance as g
from factory.feedback import Feedback
from factory.metrics import NAMES, MetricName

DEMO_BASE = "demo"  # a base that is trained first, not loaded from a folder
MAX_SEED = (1 << 53) - 1  # survives every JSON reader

Name = Annotated[
    str,
    Field(
        min_length=1,
        max_length=64,
        pattern=r"^[a-z0-9][a-z0-9._-]*$",
        description="Lower-case letters, digits, '.', '_' and '-'",
    ),
]
StopString = Annotated[str, Field(min_length=1, max_length=64)]
Share = Annotated[float, Field(ge=0, le=1)]
Source = Literal["real", "synthetic", "rejected"]
SampleState = Literal["generated", "filtered", "in_review", "accepted", "rejected", "fixed"]

# arXiv 2308.07645: the published settings
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "paper": {
        "guidance": {"rule": "paper", "gamma": 0.2, "eta": 0.2},
        "sampling": {"top_k": 10},
        "negatives": {"count": 5, "sources": {"real": 1, "synthetic": 1}, "center": False},
    },
}


def _as_tuple(value: object) -> object:
    """JSON has lists only; strict validation takes no list for a tuple."""
    return tuple(value) if isinstance(value, list) else value


def _as_uuid(value: object) -> object:
    """JSON has texts only; strict validation takes no text for an id."""
    return uuid.UUID(value) if isinstance(value, str) else value


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GuidanceSpec(_Spec):
    """How the expert is steered; see `factory.guidance.Guidance`."""

    rule: g.Rule = "steer"
    gamma: float = Field(
        0.0, ge=g.GAMMA_BOUNDS[0], le=g.GAMMA_BOUNDS[1], description="Follow the expert (γ)"
    )
    eta: float = Field(
        0.5, ge=g.ETA_BOUNDS[0], le=g.ETA_BOUNDS[1], description="Avoid what exists (η)"
    )
    alpha: Share = Field(0.0, description="Plausibility floor (α): share of the best token's p")
    nucleus: float | None = Field(
        None, gt=0, le=1, description="Plausible mass; default .95, or 1 with rule 'paper'"
    )

    @model_validator(mode="after")
    def _fill_nucleus(self) -> Self:
        object.__setattr__(self, "nucleus", self.build().nucleus)
        return self

    def build(self) -> g.Guidance:
        """The frozen settings that decoding takes."""
        return g.Guidance(
            rule=self.rule,
            gamma=self.gamma,
            eta=self.eta,
            alpha=self.alpha,
            nucleus=self.nucleus,
        )


class SamplingSpec(_Spec):
    """How a token is drawn; see `factory.guidance.Sampling`."""

    temperature: float = Field(1.0, ge=g.TEMPERATURE_BOUNDS[0], le=g.TEMPERATURE_BOUNDS[1])
    top_k: int = Field(0, ge=g.TOP_K_BOUNDS[0], le=g.TOP_K_BOUNDS[1])
    top_p: float = Field(1.0, gt=0, le=1)
    min_p: Share = 0.0
    max_new_tokens: int = Field(80, ge=g.NEW_TOKENS_BOUNDS[0], le=g.NEW_TOKENS_BOUNDS[1])
    stop: Annotated[tuple[StopString, ...], BeforeValidator(_as_tuple)] = Field(
        ("\n",), max_length=8, description="A text ends before the first of these"
    )

    def build(self) -> g.Sampling:
        """The frozen settings that decoding takes."""
        return g.Sampling(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            max_new_tokens=self.max_new_tokens,
        )


class NegativesSpec(_Spec):
    """Which existing samples to steer away from."""

    count: int = Field(3, ge=0, le=32, description="Negatives for each sample; 0: none")
    strategy: Literal["random", "recent", "nearest"] = "random"
    sources: dict[Source, Annotated[float, Field(ge=0, le=1000)]] = Field(
        default={"rejected": 2, "synthetic": 1}, description="Weight of each source"
    )
    center: bool = Field(True, description="Take away only what is particular to rejected ones")
    group: int = Field(8, ge=1, le=1024, description="Samples that share one set of negatives")


class ReviewSpec(_Spec):
    """What goes to Label Studio as it is made."""

    push: bool = True
    fraction: Share = 1.0


class GenerateSpec(_Spec):
    """Make samples."""

    kind: Literal["generate"]
    dataset: Name
    model: Name
    count: int = Field(ge=1, le=1_000_000, description="Samples to make")
    seed: int = Field(default_factory=lambda: secrets.randbelow(MAX_SEED + 1), ge=0, le=MAX_SEED)
    prompt: str | None = Field(None, max_length=100_000, description="Default: the dataset's")
    preset: Literal["default", "paper"] = "default"
    guidance: GuidanceSpec = GuidanceSpec()
    negatives: NegativesSpec = NegativesSpec()
    sampling: SamplingSpec = SamplingSpec()
    feedback: Feedback | None = Field(None, description="Default: the dataset's levers")
    audit: Share = Field(0.2, description="Share made without feedback, to know the true rates")
    shard_size: int = Field(64, ge=1, le=10_000)
    trace: bool = Field(True, description="Keep what moved each token")
    review: ReviewSpec = ReviewSpec()

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        preset = data.get("preset", "default")
        defaults = PRESETS.get(preset, {}) if isinstance(preset, str) else {}
        return {**data, **{k: _merged(v, data[k]) if k in data else v for k, v in defaults.items()}}


class TrainSpec(_Spec):
    """Fine-tune an expert on a dataset's real and corrected samples; the pair is registered."""

    kind: Literal["train"]
    dataset: Name
    model: Name = Field(description="Name of the model pair that is made")
    base: str = Field(
        min_length=1,
        max_length=1000,
        description="Folder of the base, or 'demo': the demo's tiny base, trained first",
    )
    method: Literal["lora", "full"] = "lora"
    steps: int = Field(40, ge=1, le=100_000)
    learning_rate: float = Field(2e-3, gt=0, le=1)
    rank: int = Field(8, ge=1, le=256, description="Rank of the LoRA adapter")
    seed: int = Field(0, ge=0, le=MAX_SEED)


class EvaluateSpec(_Spec):
    """Measure samples beside the dataset's real ones."""

    kind: Literal["evaluate"]
    dataset: Name
    job: Annotated[uuid.UUID, BeforeValidator(_as_uuid)] | None = Field(
        None, description="Only samples of this generate job"
    )
    origin: Literal["synthetic", "corrected"] = "synthetic"
    states: Annotated[tuple[SampleState, ...], BeforeValidator(_as_tuple)] = Field(
        (), description="Only samples in these states; none named: in any"
    )
    metrics: Annotated[tuple[MetricName, ...], BeforeValidator(_as_tuple)] = Field(
        NAMES, min_length=1, max_length=len(NAMES), description="What to measure; default: all"
    )
    limit: int = Field(
        1000, ge=1, le=2000, description="Samples to measure, at most; the seed chooses them"
    )
    seed: int = Field(0, ge=0, le=MAX_SEED)


AnySpec = GenerateSpec | TrainSpec | EvaluateSpec
JobSpec = Annotated[AnySpec, Field(discriminator="kind")]
job_spec: TypeAdapter[AnySpec] = TypeAdapter(JobSpec)
JobKind = Literal["generate", "train", "evaluate"]
KINDS: tuple[JobKind, ...] = get_args(JobKind)
UNITS: dict[JobKind, str] = {"generate": "samples", "train": "steps", "evaluate": "measures"}


def _merged(defaults: dict[str, Any], given: Any) -> Any:
    return {**defaults, **given} if isinstance(given, dict) else given


def row_seed(job_seed: int, ordinal: int) -> int:
    """The seed of one row, in [0, 2^53): the first bits of SHA-256 of both numbers."""
    digest = hashlib.sha256(f"{job_seed}/{ordinal}".encode()).digest()
    return int.from_bytes(digest[:8]) >> 11


def is_audit(share: float, ordinal: int) -> bool:
    """Whether this ordinal is made without feedback: evenly spread, `share` of all."""
    return int((ordinal + 1) * share + 1e-9) > int(ordinal * share + 1e-9)


def is_reviewed(fraction: float, seed: int) -> bool:
    """Whether a row with this seed is pushed to review: `fraction` of all, by its seed."""
    digest = hashlib.sha256(f"review/{seed}".encode()).digest()
    return int.from_bytes(digest[:8]) < fraction * 2**64
