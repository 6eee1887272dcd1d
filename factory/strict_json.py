"""JSON as Postgres can store it: UTF-8, finite numbers, no NUL and no lone surrogates."""

import json
import math
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 100


class NotJson(ValueError):
    """The bytes are not a JSON document in UTF-8."""


class NotStorable(ValueError):
    """A JSON document that Postgres cannot store. `path` names the place."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason


def loads(data: bytes, parse_float: Callable[[str], float] = float) -> Any:
    """Parse a document. Raises NotJson or NotStorable."""
    try:
        value = json.loads(data.decode("utf-8"), parse_float=parse_float, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise NotJson(str(error)) from error
    check(value)
    return value


def check(value: Any) -> None:
    """Raise NotStorable when something in `value` cannot be stored."""
    left = [("", value, 0)]
    while left:
        path, item, depth = left.pop()
        if depth > MAX_DEPTH:
            raise NotStorable(path, f"is nested more than {MAX_DEPTH} deep")
        if isinstance(item, str):
            _check_string(path, item)
        elif isinstance(item, float) and not math.isfinite(item):
            raise NotStorable(path, "is not a finite number")
        elif isinstance(item, list):
            left += [(_join(path, str(i)), entry, depth + 1) for i, entry in enumerate(item)]
        elif isinstance(item, dict):
            for key, entry in item.items():
                _check_string(_join(path, "a key"), key)
                left.append((_join(path, key), entry, depth + 1))


def _check_string(path: str, value: str) -> None:
    if "\x00" in value:
        raise NotStorable(path, "holds a NUL character")
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        raise NotStorable(path, "holds half of a surrogate pair")


def _join(path: str, part: str) -> str:
    return f"{path}.{part}" if path else part


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON number")
