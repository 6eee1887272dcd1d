"""What can be submitted: job specs, as the API, the command line and YAML files accept them."""

import hashlib
import secrets
import uuid
from typing import Annotated, Any, Literal, Self, TypeVar, cast, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from typing_extensions import TypedDict

from factory import guidance as g
from factory import search
from factory.feedback import Feedback, as_tuple
from factory.metrics import NAMES, MetricName

DEMO_BASE = "demo"  # a base that is trained first, not loaded from a folder
MAX_SEED = (1 << 53) - 1  # survives every JSON reader
MAX_POINTS = 64  # settings of a sweep: each is a job

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
Mass = Annotated[float, Field(gt=0, le=1)]
Gamma = Annotated[float, Field(ge=g.GAMMA_BOUNDS[0], le=g.GAMMA_BOUNDS[1])]
Eta = Annotated[float, Field(ge=g.ETA_BOUNDS[0], le=g.ETA_BOUNDS[1])]
Temperature = Annotated[float, Field(ge=g.TEMPERATURE_BOUNDS[0], le=g.TEMPERATURE_BOUNDS[1])]
TopK = Annotated[int, Field(ge=g.TOP_K_BOUNDS[0], le=g.TOP_K_BOUNDS[1])]
NegativeCount = Annotated[int, Field(ge=0, le=32)]
Strategy = Literal["random", "recent", "nearest"]
Source = Literal["real", "synthetic", "rejected"]
Sources = dict[Source, Annotated[float, Field(ge=0, le=1000)]]
SampleState = Literal["generated", "filtered", "in_review", "accepted", "rejected", "fixed"]

Preset = Literal[
    "default",
    "paper",
    "plain",
    "temperature",
    "nucleus",
    "min-p",
    "typical",
    "alpha-mask",
    "contrastive",
    "cfg",
    "avoidance",
    "correlated",
]
UNGUIDED = {"rule": "steer", "gamma": 0.0, "eta": 0.0, "alpha": 0.0, "nucleus": 1.0}
# The published settings of the paper, and what people compare it with. Where a paper gives a
# range, its recommended value.
PRESETS: dict[Preset, dict[str, Any]] = {
    "default": {},
    "paper": {  # O'Neill et al., arXiv 2308.07645
        "guidance": {"rule": "paper", "gamma": 0.2, "eta": 0.2},
        "sampling": {"top_k": 10},
        "negatives": {"count": 5, "sources": {"real": 1, "synthetic": 1}, "center": False},
    },
    "plain": {"guidance": UNGUIDED},
    "temperature": {"guidance": UNGUIDED, "sampling": {"temperature": 0.7}},
    "nucleus": {"guidance": UNGUIDED, "sampling": {"top_p": 0.95}},  # arXiv 1904.09751
    "min-p": {"guidance": UNGUIDED, "sampling": {"min_p": 0.1}},  # arXiv 2407.01082
    "typical": {"guidance": UNGUIDED, "sampling": {"typical_p": 0.95}},  # arXiv 2202.00666
    "alpha-mask": {"guidance": {**UNGUIDED, "alpha": 0.1}},  # arXiv 2210.15097, the mask alone
    "contrastive": {  # arXiv 2210.15097
        "guidance": {**UNGUIDED, "rule": "contrastive", "gamma": 1.0, "alpha": 0.1}
    },
    "cfg": {  # arXiv 2306.17806, guidance scale 1.5
        "guidance": {**UNGUIDED, "eta": 0.5},
        "negatives": {"center": False},
    },
    # Of these two the likeness, and one other sample, are ours; η as the study chose most often.
    "avoidance": {  # after arXiv 2509.02170
        "guidance": {**UNGUIDED, "rule": "avoidance", "eta": 1.0},
        "negatives": {"count": 8, "sources": {"synthetic": 1}, "center": False},
    },
    "correlated": {  # after arXiv 2411.08553
        "guidance": {**UNGUIDED, "rule": "correlated", "eta": 0.25},
        "negatives": {"count": 1, "sources": {"synthetic": 1}, "center": False},
    },
}


def as_uuid(value: object) -> object:
    """JSON has texts only; strict validation takes no text for an id."""
    return uuid.UUID(value) if isinstance(value, str) else value


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GuidanceSpec(_Spec):
    """How the expert is steered; see `factory.guidance.Guidance`."""

    rule: g.Rule = "steer"
    gamma: Gamma = Field(0.0, description="Follow the expert (γ)")
    eta: Eta = Field(0.5, description="Avoid what exists (η)")
    alpha: Share = Field(0.0, description="Plausibility floor (α): share of the best token's p")
    nucleus: Mass | None = Field(
        None, description="Plausible mass; default .95 with rule 'steer', else 1"
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

    temperature: Temperature = 1.0
    top_k: TopK = 0
    top_p: Mass = 1.0
    min_p: Share = 0.0
    typical_p: Mass = 1.0
    max_new_tokens: int = Field(80, ge=g.NEW_TOKENS_BOUNDS[0], le=g.NEW_TOKENS_BOUNDS[1])
    stop: Annotated[tuple[StopString, ...], BeforeValidator(as_tuple)] = Field(
        ("\n",), max_length=8, description="A text ends before the first of these"
    )

    def build(self) -> g.Sampling:
        """The frozen settings that decoding takes."""
        return g.Sampling(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            typical_p=self.typical_p,
            max_new_tokens=self.max_new_tokens,
        )


Kv = Literal["joint", "concatenated"]


class NegativesSpec(_Spec):
    """Which existing samples to steer away from."""

    count: NegativeCount = Field(3, description="Negatives for each sample; 0: none")
    strategy: Strategy = "random"
    sources: Sources = Field(
        default={"rejected": 2, "synthetic": 1}, description="Weight of each source"
    )
    center: bool = Field(True, description="Take away only what is particular to rejected ones")
    group: int = Field(8, ge=1, le=1024, description="Samples that share one set of negatives")
    kv: Kv = Field(
        "joint",
        description="How documents of a context are run: as one text, or apart from each other "
        "and kept for other samples, which is faster where few samples share their negatives",
    )


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
    label: str | None = Field(
        None, min_length=1, max_length=200, description="Label that the samples carry"
    )
    preset: Preset = "default"
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
        defaults = PRESETS[preset] if preset in get_args(Preset) else {}
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
    job: Annotated[uuid.UUID, BeforeValidator(as_uuid)] | None = Field(
        None, description="Only samples of this generate job"
    )
    origin: Literal["synthetic", "corrected"] = "synthetic"
    states: Annotated[tuple[SampleState, ...], BeforeValidator(as_tuple)] = Field(
        (), description="Only samples in these states; none named: in any"
    )
    metrics: Annotated[tuple[MetricName, ...], BeforeValidator(as_tuple)] = Field(
        NAMES, min_length=1, max_length=len(NAMES), description="What to measure; default: all"
    )
    limit: int = Field(
        1000, ge=1, le=2000, description="Samples to measure, at most; the seed chooses them"
    )
    seed: int = Field(0, ge=0, le=MAX_SEED)


class ProbeSpec(_Spec):
    """Measure a model pair on a dataset's real samples: how well the expert knows them, and
    whether what stands in its context moves it."""

    kind: Literal["probe"]
    dataset: Name
    model: Name
    prompt: str | None = Field(None, max_length=100_000, description="Default: the dataset's")
    limit: int = Field(200, ge=1, le=2000, description="Real samples to measure, at most")
    seed: int = Field(0, ge=0, le=MAX_SEED)


ValueT = TypeVar("ValueT")
Values = Annotated[list[ValueT], Field(min_length=1, max_length=MAX_POINTS)]
Space = TypedDict(  # in the order that people say them
    "Space",
    {
        "preset": Values[Preset],
        "guidance.rule": Values[g.Rule],
        "guidance.gamma": Values[Gamma],
        "guidance.eta": Values[Eta],
        "guidance.alpha": Values[Share],
        "guidance.nucleus": Values[Mass],
        "negatives.count": Values[NegativeCount],
        "negatives.strategy": Values[Strategy],
        "negatives.sources": Values[Sources],
        "negatives.center": Values[bool],
        "sampling.temperature": Values[Temperature],
        "sampling.top_k": Values[TopK],
        "sampling.top_p": Values[Mass],
        "sampling.min_p": Values[Share],
        "sampling.typical_p": Values[Mass],
    },
    total=False,
)
Space.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
SWEEP_FIELDS = tuple(Space.__annotations__)
Objective = Literal["harmonic", "yield"]
Method = Literal["halving", "random", "grid"]
POINTS, COUNT = 48, 6  # of a calibration: settings, and samples of each in its first round
UNSTEERED: search.Choice = {"guidance.gamma": 0.0, "guidance.eta": 0.0}


class SweepSpec(_Spec):
    """Try many settings on the same seeds, each as a generate job, and say which are best.

    The first point is always the settings without guidance, which the others are compared with.
    """

    kind: Literal["sweep"]
    dataset: Name
    model: Name
    method: Method = Field(
        "halving", description="halving: all points on few samples, the better half on more, …"
    )
    space: Space = Field(
        default=cast(Space, dict(search.CALIBRATION)),
        description="Values to try of each field, by its dotted name",
    )
    points: int = Field(POINTS, ge=2, le=MAX_POINTS, description="Settings tried; a grid tries all")
    count: int = Field(
        COUNT, ge=4, le=2000, description="Samples of each setting; halving: in its first round"
    )
    objective: Objective = Field(
        "harmonic", description="harmonic: of coherence and diversity; yield: share of use"
    )
    use: bool = Field(False, description="Make the recommended settings the dataset's defaults")
    seed: int = Field(default_factory=lambda: secrets.randbelow(MAX_SEED + 1), ge=0, le=MAX_SEED)
    prompt: str | None = Field(None, max_length=100_000, description="Default: the dataset's")
    guidance: GuidanceSpec = GuidanceSpec()
    negatives: NegativesSpec = NegativesSpec()
    sampling: SamplingSpec = SamplingSpec()

    @model_validator(mode="after")
    def _check_points(self) -> Self:
        if self.method == "grid" and search.size(self._ordered()) > MAX_POINTS:
            raise ValueError(f"the grid has more than {MAX_POINTS} points: name fewer values")
        for choice in self.choices():
            try:
                self.point(choice, self.count, self.seed)
            except ValidationError as error:
                first = error.errors()[0]
                field = ".".join(str(part) for part in first["loc"])
                raise ValueError(f"space: {field}: {first['msg']}") from None
        return self

    def choices(self) -> list[search.Choice]:
        """What is tried, by position; 0 is the settings without guidance."""
        space = self._ordered()
        all_ = self.method == "grid" or search.size(space) < self.points
        tried = search.grid(space) if all_ else search.draw(space, self.points - 1, self.seed)
        return [UNSTEERED, *(choice for choice in tried if choice != UNSTEERED)]

    def _ordered(self) -> search.Space:
        """The space with its fields in one order: a database keeps none."""
        given: search.Space = self.space  # type: ignore[assignment]
        return {field: given[field] for field in SWEEP_FIELDS if field in given}

    def rungs(self) -> list[search.Rung]:
        """The rounds: how many of the points are in each, and how many samples each adds."""
        points = len(self.choices())
        if self.method == "halving":
            return search.halving(points, self.count)
        return [search.Rung(points, self.count)]

    def point(self, choice: search.Choice, count: int, seed: int) -> GenerateSpec:
        """The generate job of one choice. Raises ValidationError."""
        body = self.model_dump(include={"guidance", "negatives", "sampling"}, exclude_unset=True)
        for field, value in choice.items():
            group, _, name = field.rpartition(".")
            if group:
                body[group] = {**body.get(group, {}), name: value}
            else:
                body[name] = value
        fixed = {"audit": 0.0, "feedback": {}, "trace": True, "review": {"push": False}}
        named = {"dataset": self.dataset, "model": self.model, "prompt": self.prompt}
        made = {"kind": "generate", "count": count, "seed": seed}
        return GenerateSpec.model_validate({**body, **fixed, **named, **made})


class Defaults(_Spec):
    """What a dataset's generate jobs take where they leave something out."""

    guidance: GuidanceSpec | None = None
    negatives: NegativesSpec | None = None
    sampling: SamplingSpec | None = None
    job: Annotated[uuid.UUID, BeforeValidator(as_uuid)] | None = Field(
        None, description="The sweep that found them"
    )

    def fill(self, spec: GenerateSpec) -> GenerateSpec:
        """The spec with these in place of what it leaves out, field by field.

        A preset that is named comes instead of them, "default" too. A rule that is named brings
        its own guidance.
        """
        if "preset" in spec.model_fields_set:
            return spec
        given = spec.model_dump(exclude_unset=True)
        for name in ("guidance", "negatives", "sampling"):
            own: _Spec | None = getattr(self, name)
            if own is not None and "rule" not in given.get(name, {}):
                given[name] = {**own.model_dump(exclude_unset=True), **given.get(name, {})}
        return type(spec).model_validate({**given, "seed": spec.seed})


AnySpec = GenerateSpec | TrainSpec | EvaluateSpec | ProbeSpec | SweepSpec
JobSpec = Annotated[AnySpec, Field(discriminator="kind")]
job_spec: TypeAdapter[AnySpec] = TypeAdapter(JobSpec)
JobKind = Literal["generate", "train", "evaluate", "probe", "sweep"]
KINDS: tuple[JobKind, ...] = get_args(JobKind)
UNITS: dict[JobKind, str] = {
    "generate": "samples",
    "train": "steps",
    "evaluate": "measures",
    "probe": "texts",
    "sweep": "samples",
}


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
