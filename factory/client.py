"""The Python client: the whole HTTP API as plain methods.

    with Client("http://127.0.0.1:8000", token) as factory:
        job = factory.submit({"kind": "generate", "dataset": "hypotheses", ...})
        for job in factory.watch(job["id"]):
            print(job["progress"]["done"])

Answers are the API's JSON as dicts; lists are iterators that fetch page after page. Every
error of the API is raised as the class of `factory.errors` with that status. Calls that may be
repeated without harm are tried again when the server cannot be reached or answers 503.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx

from factory import __version__
from factory.errors import (
    Conflict,
    FactoryError,
    FieldError,
    Invalid,
    NotFound,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from factory.ids import new_id

PREFIX = "/api/v1"
ENDED = ("succeeded", "partial", "failed", "cancelled")
IMPORT_LINES = 5000  # lines in one request of an import, at most
IMPORT_BYTES = 8 * 1024 * 1024  # a request of an import is sent when it holds as much
FIRST_DELAY = 0.2  # seconds before the second try; doubled before each one after
SILENCE = 30.0  # seconds without a word on an event stream before it is given up
PATIENCE = 60.0  # seconds that `watch` bears a server that is away

Json = dict[str, Any]
Sample = Mapping[str, Any] | str
Result = TypeVar("Result")

_BY_STATUS: Mapping[int, type[FactoryError]] = {
    400: Invalid,
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    405: Invalid,
    409: Conflict,
    413: TooLarge,
    415: Invalid,
    422: Invalid,
    429: Unavailable,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
}


class Client:
    """One connection pool to one factory. Close it, or use it as a context manager.

    Raises, from every method: Unavailable (not reached), Unauthorized, and what the method
    names. `retries` is how often a call is tried again, with `FIRST_DELAY` doubling between.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout: float = 30.0,
        retries: int = 3,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._retries = retries
        headers = {"User-Agent": f"steer-factory/{__version__}"}
        try:
            if token:
                headers["Authorization"] = f"Bearer {token}"
            self._http = httpx.Client(
                base_url=self.url, headers=headers, timeout=timeout, transport=transport
            )
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise Invalid(f"'{url}' and the token cannot be used: {error}") from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Datasets

    def create_dataset(
        self, name: str, prompt: str, description: str = "", labels: Sequence[str] = ()
    ) -> Json:
        """A new, empty dataset. Raises Conflict when the name is taken, Invalid."""
        body = {"name": name, "prompt": prompt, "description": description, "labels": list(labels)}
        return self._json("POST", "/datasets", body)

    def datasets(self) -> Iterator[Json]:
        """Every dataset."""
        return self._pages("/datasets", {})

    def dataset(self, name: str) -> Json:
        """A dataset with its counts. Raises NotFound."""
        return self._get(f"/datasets/{_part(name)}")

    def import_samples(
        self,
        dataset: str,
        samples: Iterable[Sample] | Path,
        on_lines: Callable[[int], None] = lambda _: None,
    ) -> Json:
        """Import real samples: `{imported, duplicates, rejected: [{line, error}]}`.

        `samples` is an NDJSON file, or an iterable of objects (`{"text", "label"?, "meta"?}`) or
        plain texts. They are sent in parts; `on_lines` hears how many are
        sent so far. Sending the same ones again does no harm: they count as duplicates.
        """
        total: Json = {"imported": 0, "duplicates": 0, "rejected": []}
        sent = 0
        for chunk in _chunks(_lines(samples)):
            part = self._import(dataset, chunk)
            total["imported"] += part["imported"]
            total["duplicates"] += part["duplicates"]
            total["rejected"] += [{**e, "line": e["line"] + sent} for e in part["rejected"]]
            sent += len(chunk)
            on_lines(sent)
        return total

    def samples(
        self,
        dataset: str,
        *,
        origin: str | None = None,
        state: str | None = None,
        query: str | None = None,
        job: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Json]:
        """A dataset's samples, newest first; at most `limit` of them."""
        wanted = {"origin": origin, "state": state, "q": query, "job": job}
        return self._pages(f"/datasets/{_part(dataset)}/samples", wanted, limit)

    def export(
        self,
        dataset: str,
        path: Path,
        *,
        format: str = "jsonl",
        states: Sequence[str] = ("accepted",),
        origin: str | None = None,
    ) -> int:
        """Stream a dataset into a file, whole or not at all; returns its size in bytes.

        `format` is jsonl, parquet or csv. Raises NotFound, Invalid, and OSError.
        """
        query = _given({"format": format, "state": list(states), "origin": origin})
        draft = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            size = self._retried(lambda: self._download(dataset, query, draft), safe=True)
            draft.replace(path)
            return size
        finally:
            draft.unlink(missing_ok=True)

    def metrics(self, dataset: str) -> Json:
        """What is measured of a dataset."""
        return self._get(f"/datasets/{_part(dataset)}/metrics")

    def negatives(self, dataset: str) -> Json:
        """What the dataset's next samples may be steered away from."""
        return self._get(f"/datasets/{_part(dataset)}/negatives")

    def reviews(self, dataset: str, limit: int | None = None) -> Iterator[Json]:
        """A dataset's reviews, newest first."""
        return self._pages(f"/datasets/{_part(dataset)}/reviews", {}, limit)

    def review_stats(self, dataset: str) -> Json:
        """Counts of pushes, verdicts and reasons of a dataset."""
        return dict(self._get(f"/datasets/{_part(dataset)}/reviews", {"limit": 1})["stats"])

    def sync_reviews(self, dataset: str) -> Json:
        """Have the dataset's reviews compared with Label Studio now."""
        return self._json("POST", f"/datasets/{_part(dataset)}/reviews/sync", safe=True)

    # Model pairs

    def add_model(self, name: str, base: str, expert: str, revision: str | None = None) -> Json:
        """Register a model pair. Raises Conflict when the name is taken, Invalid."""
        body = {"name": name, "base": base, "expert": expert, "revision": revision}
        return self._json("POST", "/models", _given(body))

    def models(self) -> Iterator[Json]:
        """Every model pair."""
        return self._pages("/models", {})

    # Jobs

    def submit(self, spec: Mapping[str, Any], *, idempotency_key: str | None = None) -> Json:
        """Submit a job once, however often the call is tried. Raises Invalid, NotFound.

        The same `idempotency_key` with the same spec gives the same job; raises Conflict with
        another one. A fresh key is used when none is given.
        """
        headers = {"Idempotency-Key": idempotency_key or str(new_id())}
        return self._json("POST", "/jobs", spec, headers=headers, safe=True)

    def preview(self, spec: Mapping[str, Any]) -> Json:
        """A few samples for a spec, guided and unguided with the same seeds; nothing is stored.

        Waits for a worker.
        """
        return self._json("POST", "/jobs/preview", spec, safe=True)

    def jobs(
        self, *, dataset: str | None = None, state: str | None = None, limit: int | None = None
    ) -> Iterator[Json]:
        """Jobs, newest first."""
        return self._pages("/jobs", {"dataset": dataset, "state": state}, limit)

    def job(self, job_id: str) -> Json:
        """A job with its progress. Raises NotFound."""
        return self._get(f"/jobs/{_part(job_id)}")

    def cancel(self, job_id: str) -> Json:
        """End a job now. Raises Conflict when it has ended."""
        return self._json("POST", f"/jobs/{_part(job_id)}/cancel")

    def pause(self, job_id: str) -> Json:
        """Hold a job. Raises Conflict when it has ended."""
        return self._json("POST", f"/jobs/{_part(job_id)}/pause", safe=True)

    def resume(self, job_id: str) -> Json:
        """Go on with a paused job. Raises Conflict when it is not paused."""
        return self._json("POST", f"/jobs/{_part(job_id)}/resume")

    def push(self, job_id: str) -> Json:
        """Send a job's samples to review, each once. Raises NotFound."""
        return self._json("POST", f"/jobs/{_part(job_id)}/push", safe=True)

    def watch(self, job_id: str, *, poll_seconds: float = 1.0) -> Iterator[Json]:
        """The job each time it changes, until it has ended; the last one tells how.

        Listens to the job's events, and asks every `poll_seconds` where they do not come
        through. Raises Unavailable when the server is away for longer than `PATIENCE`.
        """
        heard = time.monotonic()
        while True:
            try:
                for job in self._news(job_id):
                    heard = time.monotonic()
                    yield job
                    if job["state"] in ENDED:
                        return
            except Unavailable:
                if time.monotonic() - heard > PATIENCE:
                    raise
            time.sleep(poll_seconds)

    # Samples

    def sample(self, sample_id: str) -> Json:
        """One sample. Raises NotFound."""
        return self._get(f"/samples/{_part(sample_id)}")

    def provenance(self, sample_id: str) -> Json:
        """How a generated sample was made. Raises NotFound, Conflict when it was not."""
        return self._get(f"/samples/{_part(sample_id)}/provenance")

    def explain(self, sample_id: str) -> Json:
        """What moved each token of a generated sample. Waits for a worker."""
        return self._get(f"/samples/{_part(sample_id)}/explanation")

    def neighbors(self, sample_id: str, k: int = 10) -> list[Json]:
        """The k samples most like this one, nearest first."""
        return list(self._get(f"/samples/{_part(sample_id)}/neighbors", {"k": k})["items"])

    def replay(self, sample_id: str) -> Json:
        """Make a sample again: `{identical, text, expected, first_difference}`.

        Waits for a worker.
        """
        return self._json("POST", f"/samples/{_part(sample_id)}/replay", safe=True)

    # Tokens

    def create_token(self, name: str) -> Json:
        """A new API token; `token` in the answer is its value, shown only here."""
        return self._json("POST", "/tokens", {"name": name})

    def tokens(self) -> Iterator[Json]:
        """Every API token, without its value."""
        return self._pages("/tokens", {})

    def revoke_token(self, token_id: str) -> None:
        """End a token. Raises NotFound."""
        self._send("DELETE", f"/tokens/{_part(token_id)}", safe=True)

    # How calls are made

    def _get(self, path: str, query: Mapping[str, Any] | None = None) -> Json:
        return self._answer(self._send("GET", path, query=query or {}, safe=True))

    def _json(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        safe: bool = False,
    ) -> Json:
        return self._answer(self._send(method, path, body=body, headers=headers or {}, safe=safe))

    def _answer(self, response: httpx.Response) -> Json:
        """The answer's JSON; while it is not there yet (202 with a Location), wait for it."""
        while response.status_code == 202 and "Location" in response.headers:
            time.sleep(min(float(response.headers.get("Retry-After", 0.5)), 5.0))
            where = urlsplit(response.headers["Location"])
            path = where.path.removeprefix(PREFIX)
            response = self._send("GET", path, safe=True)
        if response.status_code == 204 or not response.content:
            return {}
        return _parsed(response)

    def _pages(
        self, path: str, query: Mapping[str, Any], limit: int | None = None
    ) -> Iterator[Json]:
        """Every item of a list, at most `limit`, page by page."""
        left, cursor = limit, None
        while left is None or left > 0:
            size = 100 if left is None else min(left, 100)
            page = self._get(path, _given({**query, "cursor": cursor, "limit": size}))
            items = page["items"] if left is None else page["items"][:left]
            yield from items
            left = None if left is None else left - len(items)
            cursor = page.get("next_cursor")
            if not cursor:
                return

    def _import(self, dataset: str, lines: Sequence[bytes]) -> Json:
        content = b"".join(lines)
        headers = {"Content-Type": "application/x-ndjson"}
        path = f"/datasets/{_part(dataset)}/samples"
        return _parsed(self._send("POST", path, content=content, headers=headers, safe=True))

    def _news(self, job_id: str) -> Iterator[Json]:
        """The job as it is, then from its events."""
        yield self.job(job_id)
        yield from self._events(job_id)

    def _events(self, job_id: str) -> Iterator[Json]:
        """Jobs from the event stream, until it ends or falls silent."""
        timeout = httpx.Timeout(10, read=SILENCE)
        headers = {"Accept": "text/event-stream"}
        path = f"{PREFIX}/jobs/{_part(job_id)}/events"
        with (
            _reaching(self.url),
            self._http.stream("GET", path, headers=headers, timeout=timeout) as response,
        ):
            _raise_for(response)
            yield from _event_data(response.iter_lines())

    def _download(self, dataset: str, query: Mapping[str, Any], path: Path) -> int:
        url = f"{PREFIX}/datasets/{_part(dataset)}/export"
        with (
            _reaching(self.url),
            self._http.stream("GET", url, params=query) as response,
        ):
            _raise_for(response)
            with path.open("wb") as file:
                for chunk in response.iter_bytes():
                    file.write(chunk)
                return file.tell()

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        safe: bool,
    ) -> httpx.Response:
        """One call, tried again if it is `safe` to. Raises what the answer's status says."""

        def call() -> httpx.Response:
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

        return self._retried(call, safe=safe)

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
        problem = {}
    problem = problem if isinstance(problem, dict) else {}
    title = problem.get("title") or response.reason_phrase or "an error"
    detail = problem.get("detail") or f"The server answered {response.status_code} ({title})."
    errors = [
        FieldError(str(e.get("field", "")), str(e.get("reason", "")))
        for e in problem.get("errors") or []
        if isinstance(e, dict)
    ]
    raise _BY_STATUS.get(response.status_code, FactoryError)(str(detail), errors)


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


def _lines(samples: Iterable[Sample] | Path) -> Iterator[bytes]:
    if isinstance(samples, Path):
        with samples.open("rb") as file:
            for line in file:
                yield line if line.endswith(b"\n") else line + b"\n"
        return
    for sample in samples:
        record = {"text": sample} if isinstance(sample, str) else dict(sample)
        yield json.dumps(record, ensure_ascii=False).encode() + b"\n"


def _chunks(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for line in lines:
        chunk.append(line)
        size += len(line)
        if len(chunk) == IMPORT_LINES or size >= IMPORT_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _given(values: Mapping[str, Any]) -> Json:
    return {name: value for name, value in values.items() if value is not None}


def _part(value: str) -> str:
    """A value as one part of a path."""
    return quote(str(value), safe="")
