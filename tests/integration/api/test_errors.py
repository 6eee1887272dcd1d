"""Every error is a problem (RFC 9457) that says what is wrong, where, and nothing of the inside."""

from typing import Any

import pytest
from apiflask import APIFlask

from factory import errors
from factory.settings import Settings
from factory.web import create_app, problems
from factory.web.state import KEY

NEW = {"name": "n", "prompt": "p"}


def test_every_error_of_ours_has_a_status_and_a_title(app: APIFlask) -> None:
    for error in _tree(errors.FactoryError):
        with app.test_request_context():
            response = problems.from_error(error("what, where and how to mend"))
        body = _problem(response, error.status)
        assert response.status_code == error.status
        told = error.status < 500 or error.retryable
        assert (body["title"] == error.title) == told or error is errors.FactoryError
        assert ("what, where" in body["detail"]) == told
        says_when = error.retryable or error is errors.OverBudget
        assert ("Retry-After" in response.headers) == says_when


@pytest.mark.parametrize("body", ["{", "", "\xff", "[1,]", '{"name": NaN}'])
def test_malformed_json_is_400(api: Any, body: str) -> None:
    response = api.post("/datasets", data=body.encode("latin-1"), content_type="application/json")
    assert "not JSON" in _problem(response, 400)["detail"]


def test_another_media_type_is_415(api: Any) -> None:
    response = api.post("/datasets", data='{"name": "n", "prompt": "p"}')
    assert "application/json" in _problem(response, 415)["detail"]


def test_a_large_body_is_413(api: Any) -> None:
    response = api.post("/datasets", json=NEW | {"description": "x" * 2_000_000})
    _problem(response, 413)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "Not A Name"}, "name"),
        ({"name": 5}, "name"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "a\x00b"}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"labels": ["a", ""]}, "labels.1"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_bad_input_is_422_and_names_the_field(api: Any, change: dict[str, Any], field: str) -> None:
    body = _problem(api.post("/datasets", json=NEW | change), 422)
    assert [error["field"] for error in body["errors"]] == [field]
    assert body["errors"][0]["reason"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("limit=1&limit=2", "limit"),
        ("limt=1", "limt"),
        ("cursor=x", "cursor"),
        ("cursor=%00", "cursor"),
        ("cursor=AAAAAAAAAAAAAAAAAAAAAB", "cursor"),
    ],
)
def test_a_bad_query_is_422_and_names_the_parameter(api: Any, query: str, field: str) -> None:
    body = _problem(api.get(f"/datasets?{query}"), 422)
    assert [error["field"] for error in body["errors"]] == [field]


@pytest.mark.parametrize(
    "path",
    [
        "/datasets/none",
        "/datasets/%00",
        "/datasets/none/samples",
        "/datasets/none/export",
        "/jobs/01a00000-0000-7000-8000-000000000000",
        "/jobs/none",
        "/jobs/01a00000-0000-7000-8000-000000000000/events",
        "/samples/01a00000-0000-7000-8000-000000000000/provenance",
        "/requests/01a00000-0000-7000-8000-000000000000",
        "/nothing",
    ],
)
def test_what_is_not_there_is_404(api: Any, path: str) -> None:
    _problem(api.get(path), 404)


def test_a_wrong_method_is_405_and_says_which_are_allowed(api: Any) -> None:
    response = api("PUT", "/datasets")
    _problem(response, 405)
    assert {"GET", "POST"} <= set(response.headers["Allow"].split(", "))


def test_a_fault_of_ours_is_500_and_tells_nothing(settings: Settings, app: APIFlask) -> None:
    broken = create_app(settings)
    broken.add_url_rule("/broken", view_func=lambda: 1 / 0)
    response = broken.test_client().get("/broken", headers={"X-Request-Id": "abc"})
    body = _problem(response, 500)
    assert "division" not in response.text
    assert body["request_id"] == "abc" == response.headers["X-Request-Id"]
    broken.extensions[KEY].db.close()


def test_without_a_database_the_answer_is_503(settings: Settings) -> None:
    lost = settings.model_copy(update={"database_url": "postgresql+psycopg://x@127.0.0.1:1/x"})
    response = (
        create_app(lost)
        .test_client()
        .get("/api/v1/datasets", headers={"Authorization": "Bearer x"})
    )
    _problem(response, 503)
    assert int(response.headers["Retry-After"]) > 0


def _problem(response: Any, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.get_data()
    assert response.mimetype == "application/problem+json"
    body: dict[str, Any] = response.get_json()
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert isinstance(body["errors"], list)
    return body


def _tree(root: type[errors.FactoryError]) -> list[type[errors.FactoryError]]:
    return [root, *(leaf for branch in root.__subclasses__() for leaf in _tree(branch))]
