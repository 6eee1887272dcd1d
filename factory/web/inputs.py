"""Reads requests strictly: JSON bodies, query strings and headers against pydantic models."""

from typing import Any, TypeVar, get_origin

from apiflask.schema_adapters import registry
from apiflask.schema_adapters.pydantic import PydanticAdapter
from flask import Flask, Request, request
from pydantic import BaseModel, ValidationError

from factory import strict_json
from factory.errors import FieldError, Invalid, Malformed, NotFound, UnsupportedType
from factory.spec import KINDS

ModelT = TypeVar("ModelT", bound=BaseModel)

MAX_JSON_BYTES = 1024 * 1024


class StrictAdapter(PydanticAdapter):
    """Reads a request as our API promises it, and raises our own errors.

    JSON types are taken as they are ("5" is no number), a parameter that is repeated must be a
    list, and unknown parameters are refused, so that a slip of the pen is seen.
    """

    def validate_input(self, request: Request, location: str, **_: Any) -> BaseModel:
        """The validated model. Raises Malformed, UnsupportedType, TooLarge or Invalid."""
        model: type[BaseModel] = self.model_class
        if location == "json":
            return validated(model, read_json(request), strict=True)
        if location == "query":
            return validated(model, _query(request, model))
        if location == "headers":
            return validated(model, {k.lower().replace("-", "_"): v for k, v in request.headers})
        raise ValueError(f"Nothing is read from '{location}'.")


def configure(app: Flask) -> None:
    """Look at every path before anything else does."""
    app.before_request(_check_path)


def install() -> None:
    """Have APIFlask read every pydantic model in this way."""
    registry.register("pydantic", StrictAdapter)


def read_json(request: Request) -> Any:
    """The JSON body. Raises Malformed, UnsupportedType, TooLarge or Invalid."""
    if not request.is_json:
        raise UnsupportedType("Send the body as `Content-Type: application/json`.")
    request.max_content_length = MAX_JSON_BYTES
    try:
        return strict_json.loads(request.get_data(), parse_float=_number)
    except strict_json.NotJson as error:
        raise Malformed(f"The body is not JSON in UTF-8: {error}.") from error
    except strict_json.NotStorable as error:
        raise Invalid("The body cannot be stored.", [FieldError(error.path, error.reason)]) from (
            error
        )


def validated(model: type[ModelT], data: Any, *, strict: bool = False) -> ModelT:
    """`data` as a model. Raises Invalid, naming each field and what is wrong with it."""
    try:
        return model.model_validate(data, strict=strict)
    except ValidationError as error:
        raise invalid(error) from error


def invalid(error: ValidationError) -> Invalid:
    """What pydantic found, in our words."""
    fields = [FieldError(_path(e["loc"]), e["msg"]) for e in error.errors(include_url=False)]
    first = fields[0]
    where = f"'{first.field}': " if first.field else ""
    return Invalid(f"{where}{first.reason}.", fields)


def _number(literal: str) -> float:
    """JSON knows one kind of number: 2.0 is a whole one."""
    value = float(literal)
    return int(value) if value.is_integer() else value


def _path(location: tuple[int | str, ...]) -> str:
    """Dotted, and without the tag that pydantic puts before the fields of a job spec."""
    parts = location[1:] if location and location[0] in KINDS else location
    return ".".join(str(part) for part in parts)


def _check_path() -> None:
    """Postgres cannot hold a NUL character, so nothing is named by one. Raises NotFound."""
    if any("\x00" in str(value) for value in (request.view_args or {}).values()):
        raise NotFound("Nothing has a NUL character in its name.")


def _query(request: Request, model: type[BaseModel]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    unknown = sorted(request.args.keys() - model.model_fields.keys())
    if unknown:
        errors = [FieldError(name, "is not known here") for name in unknown]
        raise Invalid("A query parameter is not known.", errors)
    for name, values in request.args.lists():
        if any("\x00" in value for value in values):
            raise Invalid("The query cannot be used.", [FieldError(name, "holds a NUL character")])
        if get_origin(model.model_fields[name].annotation) is list:
            given[name] = values
        elif len(values) == 1:
            given[name] = values[0]
        else:
            raise Invalid("The query cannot be used.", [FieldError(name, "is given twice")])
    return given
