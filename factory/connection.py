"""HTTP as the client needs it: retries, typed errors, pages, event streams.

Every error of the API is raised as the class of `factory.errors` with that status. A call that
is `safe` may be repeated without harm: it is tried again when the server cannot be reached or
answers 503. Any other call is only tried again if it never reached the server.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from factory import __version__
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

PREFIX = "/api/v1"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
PAGE = 100  # items in one page of a list
FIRST_DELAY = 0.2  # seconds before the second try; doubled before each one after
SILENCE = 30.0  # seconds without a word on an event stream before it is given up
POLL_SECONDS = 0.5  # between two looks at what a worker has yet to answer

Json = dict[str, Any]
Result = TypeVar("Result")

_KINDS = (
    Malformed,
    Unauthorized,
    Forbidden,
    NotFound,
    Conflict,
    TooLarge,
    UnsupportedType,
    Invalid,
)
_BY_STATUS: Mapping[int, type[FactoryError]] = {
    **{kind.status: kind for kind in _KINDS},
    405: Invalid,
    **dict.fromkeys((429, 502, 503, 504), Unavailable),
}


class Connection:
    """A pool of connections to one API. Paths are below `/api/v1`.

    Every method raises Unavailable when there is no answer, and what an answer's status says.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout: float,
        retries: int,
        transport: httpx.BaseTransport | None,
    ) -> None:
        """Raises Invalid when the address or the token cannot be used."""
        self.url = url.rstrip("/")
        self._retries = retries
        headers = {"User-Agent": f"steer-factory/{__version__}"}
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        try:
            self._http = httpx.Client(
                base_url=self.url,
                headers=headers,
                timeout=timeout,
                transport=transport,
                trust_env=httpx.URL(self.url).host not in LOOPBACK,  # no proxy leads back here
            )
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise Invalid(f"The address '{url}' or its token cannot be used: {error}") from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Json:
        """The JSON at a path."""
        return self.call("GET", path, query=query, safe=True)

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        safe: bool = False,
    ) -> Json:
        """One call and its JSON. What a worker has yet to answer is waited for."""

        def send() -> httpx.Response:
            with _reaching(self.url):
                response = self._http.request(
                    method,
                    PREFIX + path,
                    params=query,
                    json=body,
                    content=content,
                    headers=headers,
                )
            _raise_for(response)
            return response

        return self._answer(self._retried(send, safe=safe))

    def pages(
        self, path: str, query: Mapping[str, Any], limit: int | None = None
    ) -> Iterator[Json]:
        """Every item of a list, at most `limit`, page by page."""
        left, cursor = limit, None
        while left is None or left > 0:
            size = PAGE if left is None else min(left, PAGE)
            page = self.get(path, given({**query, "cursor": cursor, "limit": size}))
            yield from page["items"]
            left = None if left is None else left - len(page["items"])
            cursor = page["next_cursor"]
            if not cursor:
                return

    def events(self, path: str) -> Iterator[Json]:
        """The data of each event of a stream, until it ends or falls silent."""
        timeout = httpx.Timeout(10, read=SILENCE)
        headers = {"Accept": "text/event-stream"}
        with (
            _reaching(self.url),
            self._http.stream("GET", PREFIX + path, headers=headers, timeout=timeout) as response,
        ):
            _raise_for(response)
            yield from _event_data(response.iter_lines())

    def download(self, path: str, query: Mapping[str, Any], file: Path) -> int:
        """Stream what is at a path into a file; returns its size in bytes. Raises OSError."""

        def fetch() -> int:
            with (
                _reaching(self.url),
                self._http.stream("GET", PREFIX + path, params=query) as response,
            ):
                _raise_for(response)
                with file.open("wb") as target:
                    for chunk in response.iter_bytes():
                        target.write(chunk)
                    return target.tell()

        return self._retried(fetch, safe=True)

    def _answer(self, response: httpx.Response) -> Json:
        """The answer's JSON, empty with a 204; with a 202 and a Location, what is found there in
        the end."""
        if response.status_code == 204:
            return {}
        answer = _parsed(response)
        if response.status_code != 202 or "Location" not in response.headers:
            return answer
        path = urlsplit(response.headers["Location"]).path.removeprefix(PREFIX)
        while answer["state"] == "pending":
            time.sleep(POLL_SECONDS)
            answer = self.get(path)
        if answer["error"]:
            raise _error(int(answer["error"]["status"]), answer["error"])
        return dict(answer["result"])

    def _retried(self, call: Callable[[], Result], *, safe: bool) -> Result:
        delay = FIRST_DELAY
        for _ in range(self._retries):
            try:
                return call()
            except Unavailable as error:
                if not (safe or isinstance(error.__cause__, httpx.ConnectError)):
                    raise
            time.sleep(delay)
            delay *= 2
        return call()


def given(values: Mapping[str, Any]) -> Json:
    """The values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    """Raise Unavailable for whatever keeps us from an answer."""
    try:
        yield
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise Unavailable(f"The factory at {url} cannot be reached: {error}.") from error


def _raise_for(response: httpx.Response) -> None:
    """Raise the error that an answer carries (RFC 9457 problem+json), if it is one."""
    if response.is_success:
        return
    response.read()
    try:
        problem = json.loads(response.content)
    except ValueError:
        problem = None
    raise _error(response.status_code, problem if isinstance(problem, dict) else {})


def _error(status: int, problem: Json) -> FactoryError:
    """The error of a status, with what the problem says of it."""
    detail = problem.get("detail") or f"The server answered {status} and no reason."
    errors = [FieldError(str(e["field"]), str(e["reason"])) for e in problem.get("errors") or []]
    return _BY_STATUS.get(status, FactoryError)(str(detail), errors)


def _parsed(response: httpx.Response) -> Json:
    try:
        value = response.json()
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise FactoryError(
            f"{response.url} did not answer with JSON. Is this the address of a factory?"
        )
    return value


def _event_data(lines: Iterable[str]) -> Iterator[Json]:
    """The data of each event of a stream (WHATWG HTML, 9.2), parsed."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))
        elif not line and data:
            yield json.loads("\n".join(data))
            data = []
