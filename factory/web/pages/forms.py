"""HTML forms: flat texts under dotted names, made into nested data and checked by pydantic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from factory.errors import FactoryError

ModelT = TypeVar("ModelT", bound=BaseModel)
YES = "yes"  # a ticked box


@dataclass
class Form:
    """What stands in the fields, and what is wrong with some of them. "" is the whole form."""

    values: dict[str, str]
    errors: dict[str, str] = field(default_factory=dict)

    def refuse(self, error: FactoryError, default: str = "") -> None:
        """Note an error at its fields, or at `default` when it names none."""
        for each in error.errors:
            self.errors.setdefault(each.field, _sentence(each.reason))
        if not error.errors:
            self.errors.setdefault(default, error.detail)

    def read(self, model: type[ModelT], data: Any) -> ModelT | None:
        """`data` as a model; None, and the errors at their fields, when it is not one."""
        try:
            return model.model_validate(data)
        except ValidationError as error:
            for each in error.errors(include_url=False):
                name = ".".join(str(part) for part in each["loc"])
                self.errors.setdefault(self._field(name), _sentence(each["msg"]))
            return None

    def _field(self, name: str) -> str:
        """The field that a path belongs to: itself, or the nearest one above it."""
        while name and name not in self.values:
            name = name.rpartition(".")[0]
        return name


def nested(values: Mapping[str, str], checks: Sequence[str] = ()) -> dict[str, Any]:
    """Dotted names as nested dicts. Empty fields are left out, `checks` become true or false."""
    data: dict[str, Any] = {}
    for name, value in values.items():
        if name not in checks and value.strip():
            _put(data, name, value)
    for name in checks:
        _put(data, name, values.get(name) == YES)
    return data


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """The other way: nested data as the texts of a form's fields. Lists are left out."""
    values: dict[str, str] = {}
    for name, value in data.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            values |= flat(value, f"{path}.")
        elif isinstance(value, bool):
            values[path] = YES if value else ""
        elif isinstance(value, str | int | float):
            values[path] = f"{value:g}" if isinstance(value, float) else str(value)
    return values


def _put(data: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for part in parents:
        data = data.setdefault(part, {})
    data[last] = value


def _sentence(reason: str) -> str:
    said = reason.removeprefix("Value error, ").removeprefix("Input ").strip()
    return said[:1].upper() + said[1:] + ("" if said.endswith((".", ")")) else ".")
