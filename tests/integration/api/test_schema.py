"""Schemathesis asks every operation of the OpenAPI document, and all of its checks hold."""

import json
from typing import Any

import pytest
import schemathesis
from apiflask import APIFlask
from schemathesis.config import SchemathesisConfig
from schemathesis.generation import GenerationMode

from factory.settings import Settings
from factory.web import create_app
from factory.web.state import KEY

EXAMPLES = 10  # random ones for each operation, beside those that cover every constraint
CONFIG = {
    "seed": 7,
    "generation": {"max-examples": EXAMPLES, "database": "none", "allow-x00": False},
}
TOKEN = "sf_the-token-of-these-tests"
WEBHOOK_SECRET = "the-secret-of-the-webhook"


@schemathesis.serializer("application/x-ndjson")
def _lines(context: Any, value: Any) -> bytes:
    """Any bytes are an import: bad lines are named in the answer."""
    return value if isinstance(value, bytes) else json.dumps(value).encode()


# Tests are made from the document before there is a database, so this application is given the
# state of the real one when they run.
NOWHERE = Settings(database_url="postgresql+psycopg://nobody@127.0.0.1:1/none", broker_url="redis:")
asked = create_app(NOWHERE)
schema = schemathesis.openapi.from_wsgi(
    "/openapi.json", asked, config=SchemathesisConfig.from_dict(CONFIG)
)


@pytest.fixture(autouse=True)
def _real_state(app: APIFlask) -> None:
    asked.extensions[KEY] = app.extensions[KEY]


# With a parameter of its own the test has an id for each operation, which pytest 9.2 needs.
@pytest.mark.parametrize("token", [TOKEN], ids=["signed-in"])
@schema.parametrize()
def test_every_operation_does_as_the_document_says(
    case: schemathesis.Case, token: str, known: Any, settings: Settings
) -> None:
    if case.meta and case.meta.generation.mode is GenerationMode.POSITIVE:
        _name_what_exists(case, known, settings)
    token = WEBHOOK_SECRET if case.path.startswith("/webhooks/") else token
    case.call_and_validate(headers={"Authorization": f"Bearer {token}"})


def _name_what_exists(case: schemathesis.Case, known: Any, settings: Settings) -> None:
    """Valid but random names and ids lead to 404 and 422 only: have them lead further."""
    there = {"name": known.dataset, "job_id": known.job, "sample_id": known.samples[1]}
    for name in case.path_parameters.keys() & there.keys():
        case.path_parameters[name] = str(there[name])
    if "dataset" in case.query:
        case.query["dataset"] = known.dataset
    if "cursor" in case.query:
        del case.query["cursor"]
    if not isinstance(case.body, dict):
        return
    if case.body.get("kind") == "sweep":  # it makes a job for each of its settings
        case.body |= {"method": "random", "points": 2, "count": 4}
    if "amount" in case.body:  # a budget: the jobs of the other cases are to fit into it
        case.body |= {"dataset": known.dataset, "token": None, "amount": 10**12}
    elif "dataset" in case.body:
        named = {"model": known.model, "base": "demo", "job": str(known.job)}
        field = {"train": "base", "evaluate": "job"}.get(case.body["kind"], "model")
        case.body |= {"dataset": known.dataset, field: named[field]}
    if "expert" in case.body:
        folder = settings.model_roots[0]
        case.body |= {"base": str(folder / "base"), "expert": str(folder / "expert")}
