"""The client on a transport of our own: what is tried again, and which error a status becomes."""

import json
from collections.abc import Callable

import httpx
import pytest

from factory import client as client_module
from factory import connection
from factory.client import Client
from factory.errors import (
    Conflict,
    FactoryError,
    FieldError,
    Forbidden,
    Invalid,
    Malformed,
    NotFound,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnsupportedType,
)

Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_DELAY", 0.0)
    monkeypatch.setattr(connection, "POLL_SECONDS", 0.0)


def client_of(handler: Handler) -> Client:
    return Client("http://factory", "sf_token", transport=httpx.MockTransport(handler))


def job(state: str, done: int = 0) -> dict[str, object]:
    progress = {"planned": 4, "done": done, "failed": 0}
    return {"id": "1", "kind": "generate", "state": state, "progress": progress}


class Flaky:
    """Fails with `error` some times, then answers; keeps what it was asked."""

    def __init__(self, times: int, error: type[httpx.TransportError] | int) -> None:
        self.times, self.error = times, error
        self.seen: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        if len(self.seen) > self.times:
            return httpx.Response(200, json={"id": "1"})
        if isinstance(self.error, int):
            return httpx.Response(self.error, json={"detail": "Not now."})
        raise self.error("broken")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, Malformed),
        (401, Unauthorized),
        (403, Forbidden),
        (404, NotFound),
        (405, Invalid),
        (409, Conflict),
        (413, TooLarge),
        (415, UnsupportedType),
        (422, Invalid),
        (429, Unavailable),
        (500, FactoryError),
        (503, Unavailable),
    ],
)
def test_each_status_is_raised_as_its_error(status: int, kind: type[FactoryError]) -> None:
    problem = {"detail": "What and how.", "errors": [{"field": "count", "reason": "is 0"}]}
    with pytest.raises(kind) as caught:
        client_of(lambda _: httpx.Response(status, json=problem)).job("1")
    assert type(caught.value) is kind
    assert caught.value.detail == "What and how."
    assert caught.value.errors == (FieldError("count", "is 0"),)


def test_an_error_without_a_problem_still_says_something() -> None:
    with pytest.raises(Unavailable, match="502"):
        client_of(lambda _: httpx.Response(502, text="<html>proxy</html>")).job("1")


def test_an_address_that_is_no_factory_is_told_so() -> None:
    with pytest.raises(FactoryError, match="Is this the address of a factory"):
        client_of(lambda _: httpx.Response(200, text="<html>hello</html>")).job("1")


@pytest.mark.parametrize("error", [httpx.ConnectError, httpx.ReadTimeout, 503])
def test_reading_is_tried_again(error: type[httpx.TransportError] | int) -> None:
    flaky = Flaky(3, error)
    assert client_of(flaky).job("1") == {"id": "1"}
    assert len(flaky.seen) == 4


def test_trying_ends_after_the_retries() -> None:
    flaky = Flaky(4, httpx.ConnectError)
    with pytest.raises(Unavailable, match="http://factory cannot be reached"):
        client_of(flaky).job("1")
    assert len(flaky.seen) == 4


def test_a_submission_is_repeated_with_its_key() -> None:
    flaky = Flaky(2, httpx.ReadTimeout)
    client_of(flaky).submit({"kind": "generate"})
    keys = {request.headers["Idempotency-Key"] for request in flaky.seen}
    assert len(flaky.seen) == 3
    assert len(keys) == 1


def test_two_submissions_have_two_keys() -> None:
    flaky = Flaky(0, 503)
    with client_of(flaky) as client:
        client.submit({"kind": "generate"})
        client.submit({"kind": "generate"})
    first, second = (request.headers["Idempotency-Key"] for request in flaky.seen)
    assert first != second


@pytest.mark.parametrize("error", [httpx.ReadTimeout, 503])
def test_what_may_have_happened_is_not_repeated(error: type[httpx.TransportError] | int) -> None:
    flaky = Flaky(1, error)
    with pytest.raises(Unavailable):
        client_of(flaky).create_token("alice")
    assert len(flaky.seen) == 1


def test_what_never_reached_the_server_is_repeated() -> None:
    flaky = Flaky(2, httpx.ConnectError)
    client_of(flaky).create_token("alice")
    assert len(flaky.seen) == 3


def test_refusals_are_not_repeated() -> None:
    flaky = Flaky(1, 422)
    with pytest.raises(Invalid):
        client_of(flaky).submit({})
    assert len(flaky.seen) == 1


def test_names_cannot_leave_their_part_of_the_path() -> None:
    seen: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path.decode())
        return httpx.Response(200, json={})

    client_of(handle).dataset("../tokens?x=1")
    assert seen == ["/api/v1/datasets/..%2Ftokens%3Fx%3D1"]


def test_a_token_that_is_no_header_is_refused() -> None:
    with pytest.raises(Invalid):
        Client("http://factory", "töken")


def test_watch_listens_to_events_until_the_end() -> None:
    stream = "".join(
        f": comment\nevent: progress\ndata: {json.dumps(each)}\n\n"
        for each in (job("running", 1), job("running", 3), job("succeeded", 4))
    )

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            return httpx.Response(200, text=stream)
        return httpx.Response(200, json=job("pending"))

    states = [each["state"] for each in client_of(handle).watch("1")]
    assert states == ["pending", "running", "running", "succeeded"]


def test_watch_asks_where_events_do_not_come_through() -> None:
    answers = iter([job("pending"), job("running", 2), job("failed", 2)])

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            return httpx.Response(503, json={"detail": "Too many streams."})
        return httpx.Response(200, json=next(answers))

    states = [each["state"] for each in client_of(handle).watch("1", poll_seconds=0)]
    assert states == ["pending", "running", "failed"]


def test_watch_goes_on_after_a_stream_that_broke() -> None:
    streams = iter([f"data: {json.dumps(job('running', 1))}\n\ndata: {{", ""])
    answers = iter([job("pending"), job("succeeded", 4)])

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            return httpx.Response(200, text=next(streams))
        return httpx.Response(200, json=next(answers))

    states = [each["state"] for each in client_of(handle).watch("1", poll_seconds=0)]
    assert states == ["pending", "running", "succeeded"]


def test_watch_gives_up_when_the_server_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "PATIENCE", 0.0)

    def away(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(Unavailable):
        list(client_of(away).watch("1", poll_seconds=0))


def test_watching_an_unknown_job_says_so() -> None:
    with pytest.raises(NotFound):
        list(client_of(lambda _: httpx.Response(404, json={"detail": "No."})).watch("1"))


def test_an_answer_that_takes_long_is_waited_for() -> None:
    states = iter(["pending", "pending", "done"])

    def handle(request: httpx.Request) -> httpx.Response:
        body = {"state": "pending", "error": None, "result": {"identical": True}}
        if request.method == "POST":
            return httpx.Response(202, json=body, headers={"Location": "/api/v1/requests/7"})
        assert request.url.path == "/api/v1/requests/7"
        return httpx.Response(200, json=body | {"state": next(states)})

    assert client_of(handle).replay("1") == {"identical": True}


def test_a_late_refusal_is_raised_as_its_error() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        error = {"status": 422, "title": "No", "detail": "The model is gone."}
        body = {"state": "failed", "error": error, "result": None}
        status = 202 if request.method == "POST" else 200
        return httpx.Response(status, json=body, headers={"Location": "/api/v1/requests/7"})

    with pytest.raises(Invalid, match="The model is gone"):
        client_of(handle).replay("1")
