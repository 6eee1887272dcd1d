"""Job specs from YAML files and options, checked before they are sent."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
import yaml
from pydantic import ValidationError

from factory.errors import FieldError, Invalid
from factory.feedback import Feedback
from factory.guidance import Rule
from factory.spec import KINDS, PRESETS, job_spec

Function = TypeVar("Function", bound=Callable[..., Any])
Spec = dict[str, Any]

# option → where its value goes, type, help
OPTIONS: tuple[tuple[str, str, Any, str], ...] = (
    ("--dataset", "dataset", str, "Dataset to make samples for."),
    ("--model", "model", str, "Model pair to make them with."),
    ("--count", "count", int, "Samples to make."),
    ("--seed", "seed", int, "Same seed, same noise."),
    ("--prompt", "prompt", str, "Instead of the dataset's."),
    ("--label", "label", str, "That the samples carry."),
    ("--preset", "preset", click.Choice(list(PRESETS)), "Settings to start from."),
    ("--rule", "guidance.rule", click.Choice(get_args(Rule)), "How streams are combined."),
    ("--gamma", "guidance.gamma", float, "Follow the expert (γ)."),
    ("--eta", "guidance.eta", float, "Avoid what exists (η)."),
    ("--alpha", "guidance.alpha", float, "Plausibility floor (α)."),
    ("--nucleus", "guidance.nucleus", float, "Plausible mass of the expert."),
    ("--negatives", "negatives.count", int, "Negatives for each sample."),
    (
        "--strategy",
        "negatives.strategy",
        click.Choice(("random", "recent", "nearest")),
        "How negatives are chosen.",
    ),
    ("--center/--no-center", "negatives.center", bool, "Spare what accepted ones share."),
    ("--temperature", "sampling.temperature", float, "0: greedy."),
    ("--top-k", "sampling.top_k", int, "0: all."),
    ("--top-p", "sampling.top_p", float, "1: all."),
    ("--min-p", "sampling.min_p", float, "0: all."),
    ("--typical-p", "sampling.typical_p", float, "1: all."),
    ("--max-new-tokens", "sampling.max_new_tokens", int, "Length of a sample, at most."),
    ("--audit", "audit", float, "Share made without feedback."),
    ("--shard-size", "shard_size", int, "Samples in one slice of work."),
    ("--trace/--no-trace", "trace", bool, "Keep what moved each token."),
    ("--review/--no-review", "review.push", bool, "Send samples to review as they are made."),
    ("--review-fraction", "review.fraction", float, "Share that is reviewed."),
)


def spec_options(function: Function) -> Function:
    """Give a command the argument FILE and an option for each field of a generate job."""
    setter = click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="FIELD=VALUE",
        help="Any field by its dotted name, as YAML: --set 'negatives.sources={rejected: 1}'.",
    )
    function = setter(function)
    for option, _, kind, text in reversed(OPTIONS):
        switch = {"is_flag": True} if kind is bool else {"type": kind}
        function = click.option(option, default=None, help=text, **switch)(function)
    path = click.Path(exists=True, dir_okay=False, allow_dash=True)
    return click.argument("file", required=False, type=path)(function)


def gathered(file: str | None, options: Mapping[str, Any], assignments: tuple[str, ...]) -> Spec:
    """The spec of FILE, changed by the options, then by `--set`; checked."""
    spec: Spec = {"kind": "generate"} | (_read(file) if file else {})
    for option, field, _, _ in OPTIONS:
        value = options[_parameter(option)]
        if value is not None:
            _put(spec, field, value)
    return checked(assigned(spec, assignments))


def assigned(spec: Spec, assignments: tuple[str, ...]) -> Spec:
    """The spec after each `FIELD=VALUE`, the value as YAML."""
    for assignment in assignments:
        field, _, value = assignment.partition("=")
        _put(spec, field.strip(), _yaml(value, f"--set {field}"))
    return spec


def checked(spec: Spec) -> Spec:
    """The spec as given, once it is known to be valid. Raises Invalid naming each field."""
    try:
        job_spec.validate_python(spec)
    except ValidationError as error:
        problems = [
            FieldError(_field(each["loc"]), _reason(each["msg"])) for each in error.errors()
        ]
        raise Invalid("The job is not valid.", problems) from error
    return spec


def feedback_of(given: str) -> Spec:
    """A feedback setting from a file, or from YAML itself; checked. Raises Invalid."""
    if Path(given).is_file():
        setting = _read(given, "a feedback setting (levers, window)")
    else:
        setting = _yaml(given, "--feedback")
    try:
        Feedback.model_validate(setting)
    except ValidationError as error:
        problems = [
            FieldError(".".join(map(str, each["loc"])), _reason(each["msg"]))
            for each in error.errors()
        ]
        raise Invalid("The feedback setting is not valid.", problems) from error
    return dict(setting)


def _read(file: str, what: str = "the fields of a job (kind, dataset, model, …)") -> Spec:
    name = "standard input" if file == "-" else file
    with click.open_file(file, encoding="utf-8") as stream:
        try:
            text = stream.read()
        except UnicodeDecodeError as error:
            raise Invalid(f"{name} is not UTF-8 text: {error.reason}.") from error
    value = _yaml(text, name)
    if not isinstance(value, dict):
        raise Invalid(f"{name} does not hold {what}.")
    return value


def _yaml(text: str, name: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "is not YAML"
        raise Invalid(f"{name}{where}: {problem}.") from error


def _put(spec: Spec, field: str, value: Any) -> None:
    """Set a field by its dotted name, whatever it held before."""
    *parents, last = field.split(".")
    place = spec
    for parent in parents:
        inner = place.get(parent)
        place[parent] = copy.copy(inner) if isinstance(inner, dict) else {}
        place = place[parent]
    place[last] = value


def _parameter(option: str) -> str:
    return option.split("/")[0].removeprefix("--").replace("-", "_")


def _field(location: tuple[int | str, ...]) -> str:
    """The dotted name of a field, without the kind that pydantic puts before it."""
    parts = location[1:] if location and location[0] in KINDS else location
    return ".".join(str(part) for part in parts)


def _reason(message: str) -> str:
    return message.removeprefix("Value error, ")
