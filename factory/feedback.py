"""What people's verdicts do to the samples that follow: the levers of a dataset, by name.

A lever is configured here, fitted by a worker on the evidence (the verdicts inside the window),
and acts on every row of a generate job but its audit share.
"""

import hashlib
import json
import re
from typing import Annotated, Any, Literal, get_args

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

LeverName = Literal["gates", "negatives", "verdict_head", "adapters", "filter"]
Pool = Literal["real", "stored"]
Share = Annotated[float, Field(gt=0, le=1)]


def as_tuple(value: object) -> object:
    """JSON has lists only; strict validation takes no list for a tuple."""
    return tuple(value) if isinstance(value, list) else value


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Gates(_Part):
    """Rules that a text must pass. One that does not is kept, as `filtered`, with the reason."""

    copies: Share | None = Field(
        0.8, description="Share of its runs of three words that one other text has too: a near-copy"
    )
    nearness: Share | None = Field(
        None, description="Cosine to the nearest other text at which it is a near-copy"
    )
    against: Annotated[tuple[Pool, ...], BeforeValidator(as_tuple)] = Field(
        ("real", "stored"), description="Which other texts: real samples, samples made before"
    )
    min_characters: int | None = Field(None, ge=0, le=100_000)
    max_characters: int | None = Field(None, ge=1, le=100_000)
    pattern: str | None = Field(
        None,
        max_length=1000,
        description="Regular expression that the whole text must match",
        json_schema_extra={"format": "regex"},
    )
    json_schema: dict[str, Any] | None = Field(
        None, description="The text must be JSON that this schema (2020-12) allows"
    )
    keywords: bool = Field(
        False, description="Learn from stated reasons which words only rejected texts have"
    )

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from error
        return pattern

    @field_validator("json_schema")
    @classmethod
    def _is_schema(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        try:
            Draft202012Validator.check_schema(schema or {})
        except SchemaError as error:
            raise ValueError(f"is no JSON schema: {error.message}") from error
        return schema


class NegativePrompt(_Part):
    """Rejected samples as negative prompt (and accepted ones as its centre)."""

    weight: float = Field(1.0, gt=0, le=10, description="Multiplies η")
    center: bool | None = Field(None, description="Centred or plain; default: as the job says")
    told_apart: float | None = Field(
        None,
        ge=0.5,
        lt=1,
        description="Used only where a classifier of embeddings tells held-out rejected texts "
        "from accepted ones with this AUROC, or verdicts are too few to know; default: always",
    )

    def rests(self, auroc: float | None) -> bool:
        """Whether it does not act: the AUROC is known (not None) and lower than is asked for."""
        return None not in (auroc, self.told_apart) and auroc < self.told_apart  # type: ignore[operator]


class Head(_Part):
    """A classifier of the expert's own hidden states, fitted on verdicts, added to the scores."""

    weight: float = Field(3.0, gt=0, le=100, description="ρ: how strongly it steers")
    cap: float = Field(
        0.3, gt=0, le=100, description="Nats a token that it may move the expert, at most (KL)"
    )
    rank: int = Field(8, ge=1, le=64, description="Rank of what it learns about tokens")


class Adapters(_Part):
    """The expert's LoRA adapter tuned on accepted and on rejected texts: what the former finds
    likelier than the latter is added to the scores."""

    weight: float = Field(1.0, gt=0, le=100, description="ρ: how strongly they steer")
    cap: float = Field(
        0.3, gt=0, le=100, description="Nats a token that they may move the expert, at most (KL)"
    )
    steps: int = Field(30, ge=1, le=10_000, description="Steps that each is tuned for")
    learning_rate: float = Field(2e-3, gt=0, le=1)


class Filter(_Part):
    """Ranks finished texts by a classifier of their embeddings and keeps the best."""

    keep: Share = Field(
        0.5,
        lt=1,
        description="Keeps a text that is like the best share of the evidence; the others are "
        "filtered. To end with n texts, ask for about n / keep",
    )


class Levers(_Part):
    """The levers that are used; those left out are not."""

    gates: Gates | None = None
    negatives: NegativePrompt | None = None
    verdict_head: Head | None = None
    adapters: Adapters | None = None
    filter: Filter | None = None

    @property
    def names(self) -> list[LeverName]:
        """Those that are used, in the order in which they stand here."""
        return [name for name in get_args(LeverName) if getattr(self, name) is not None]

    @property
    def fits(self) -> list[LeverName]:
        """Those whose fits decide what is done: negatives may hang on the filter's."""
        asks = self.negatives is not None and self.negatives.told_apart is not None
        return [*self.names, "filter"] if asks and self.filter is None else self.names

    @property
    def learn(self) -> bool:
        """Whether verdicts must be read to use them."""
        return bool(set(self.fits) - {"negatives"})


# What did best in `make study`: negatives there at η = 1, twice the default of a job.
RECOMMENDED = Levers(
    gates=Gates(),
    negatives=NegativePrompt(weight=2.0, center=False, told_apart=0.9),
    verdict_head=Head(),
)


def _named(given: object) -> object:
    return RECOMMENDED if given == "recommended" else given


class Window(_Part):
    """Which verdicts count as evidence. None set: all. Both set: those inside both."""

    rounds: int | None = Field(
        None, ge=1, le=100_000, description="Of the newest reviewed generate jobs"
    )
    days: float | None = Field(None, gt=0, le=36_500, description="Given since so many days")


class Feedback(_Part):
    """A dataset's levers, and the evidence they are fitted on."""

    levers: Annotated[
        Levers,
        BeforeValidator(_named, json_schema_input_type=Levers | Literal["recommended"]),
    ] = Field(
        Levers(negatives=NegativePrompt()),
        description="None used: reviews change nothing. 'recommended': those that did best",
    )
    window: Window = Window()


def digest(content: Any) -> str:
    """SHA-256, in hex, of something that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
