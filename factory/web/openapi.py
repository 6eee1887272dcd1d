"""The OpenAPI document: what APIFlask gathers, made whole.

Every operation below `/api/v1` names its security and each problem it may answer with.
"""

import json
import re
from typing import Any

from apiflask import APIFlask

from factory.web.problems import MEDIA_TYPE, Problem

SECURITY_SCHEMES = {
    "token": {"type": "http", "scheme": "bearer", "description": "An API token"},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": "factory_session",
        "description": "Set by the dashboard's login",
    },
    "webhook": {"type": "http", "scheme": "bearer", "description": "FACTORY_WEBHOOK_SECRET"},
}
PROBLEMS = {
    "400": "The body cannot be read",
    "401": "No live token",
    "403": "A session's unsafe request from another site, or more than is left of a budget",
    "404": "Not found",
    "409": "Clashes with what is there",
    "413": "Too large",
    "415": "Not JSON",
    "422": "Not valid: `errors` names each field and the reason",
    "500": "A fault of ours; the request id leads to the log",
    "503": "A part that is needed does not answer; try again after `Retry-After`",
}
TEXT = {"type": "string"}
NESTED = re.compile(r"(#/components/schemas/)[A-Za-z]+\.([A-Za-z]+)")


def configure(app: APIFlask) -> None:
    """Set up `/openapi.json`."""
    app.config.update(
        SERVERS=[{"url": "/"}],
        AUTO_OPERATION_ID=True,
        AUTO_VALIDATION_ERROR_RESPONSE=False,
        AUTO_AUTH_ERROR_RESPONSE=False,
        SECURITY_SCHEMES=SECURITY_SCHEMES,
        DESCRIPTION="Steer language models to make the training data you lack.",
        LICENSE={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    app.spec_processor(_completed)


def ref(name: str) -> dict[str, str]:
    """The schema of a model of this name."""
    return {"$ref": f"#/components/schemas/{name}"}


def document(description: str, *media_types: str, schema: dict[str, Any] = TEXT) -> Any:
    """A response as `doc(responses=…)` takes it."""
    content = {media_type: {"schema": schema} for media_type in media_types}
    return {"description": description, "content": content}


def _completed(spec: Any) -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(NESTED.sub(r"\1\2", json.dumps(spec)))
    whole["components"]["schemas"] = _schemas(whole["components"]["schemas"])
    for path, operations in whole["paths"].items():
        for operation in operations.values():
            _complete(path, operation)
    return whole


def _schemas(gathered: dict[str, Any]) -> dict[str, Any]:
    """Models under their own names: APIFlask puts the outer model's before them."""
    schemas = {name.rsplit(".")[-1]: schema for name, schema in gathered.items()}
    schemas.pop("HTTPError")  # APIFlask's own
    schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    for schema in list(schemas.values()):
        schemas |= schema.pop("$defs", {})
    return schemas


def _complete(path: str, operation: dict[str, Any]) -> None:
    if path.startswith("/api/"):
        operation["security"] = [{"token": []}, {"session": []}]
    for parameter in operation["parameters"]:
        _complete_parameter(parameter)
    if "requestBody" in operation:
        operation["requestBody"]["required"] = True
    responses = operation["responses"]
    for status in _statuses(operation):
        description = responses.get(status, {}).get("description") or PROBLEMS[status]
        schema = {"$ref": "#/components/schemas/Problem"}
        responses[status] = {
            "description": description,
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
    for status in ("201", "202"):
        if status in responses:
            responses[status]["headers"] = {"Location": {"schema": {"type": "string"}}}


def _complete_parameter(parameter: dict[str, Any]) -> None:
    """A parameter is given or left out: there is no null in a query or a header."""
    schema = parameter["schema"]
    if "anyOf" in schema:
        schema |= next(option for option in schema.pop("anyOf") if option["type"] != "null")
    if schema.get("default", ...) is None:
        del schema["default"]
    if "description" in schema:
        parameter["description"] = schema.pop("description")


def _statuses(operation: dict[str, Any]) -> set[str]:
    """The problems that an operation may answer with."""
    found = {status for status in operation["responses"] if status >= "400"} | {"500", "503"}
    if operation.get("security"):
        found |= {"401", "403"}
    if "requestBody" in operation:
        found |= {"400", "413", "415", "422"}
    if any(parameter["in"] != "path" for parameter in operation.get("parameters", [])):
        found |= {"422"}
    return found
