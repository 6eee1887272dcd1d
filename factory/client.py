"""The Python client: the whole HTTP API as plain methods.

    with Client("http://127.0.0.1:8000", token) as factory:
        job = factory.submit({"kind": "generate", "dataset": "hypotheses", ...})
        for job in factory.watch(job["id"]):
            print(job["progress"]["done"])

Answers are the API's JSON as dicts; lists are iterators that fetch page after page. Errors are
those of `factory.errors` (see `factory.connection`).
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

import httpx

from factory.connection import Connection, Json, given
from factory.errors import Unavailable
from factory.ids import new_id

ENDED = ("succeeded", "partial", "failed", "cancelled")
IMPORT_LINES = 5000  # lines in one request of an import, at most
IMPORT_BYTES = 8 * 1024 * 1024  # a request of an import is sent when it holds as much
PATIENCE = 60.0  # seconds that `watch` bears a server that is away
NDJSON = {"Content-Type": "application/x-ndjson"}

Sample = Mapping[str, Any] | str


class Client:
    """One connection pool to one factory. Close it, or use it as a context manager.

    Raises, from every method: Unavailable (not reached), Unauthorized, and what the method
    names. `retries` is how often a call is tried again, after .2 s, then twice as long each time.
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
        self._http = Connection(url, token, timeout=timeout, retries=retries, transport=transport)

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
        return self._http.call("POST", "/datasets", body)

    def datasets(self) -> Iterator[Json]:
        """Every dataset."""
        return self._http.pages("/datasets", {})

    def dataset(self, name: str) -> Json:
        """A dataset with its counts. Raises NotFound."""
        return self._http.get(f"/datasets/{_part(name)}")

    def set_feedback(self, name: str, feedback: Mapping[str, Any]) -> Json:
        """Say which levers a dataset's later jobs use: `{"levers": {name: settings}, "window"}`.

        Raises NotFound, Invalid.
        """
        path = f"/datasets/{_part(name)}"
        return self._http.call("PATCH", path, {"feedback": feedback}, safe=True)

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
        path, sent = f"/datasets/{_part(dataset)}/samples", 0
        for chunk in _chunks(_lines(samples)):
            part = self._http.call("POST", path, content=b"".join(chunk), headers=NDJSON, safe=True)
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
        states: Sequence[str] = (),
        query: str | None = None,
        job: str | None = None,
        near_copy: bool | None = None,
        limit: int | None = None,
    ) -> Iterator[Json]:
        """A dataset's samples, newest first; at most `limit` of them. `near_copy`: only those
        that are marked as one, or only the others."""
        wanted: Json = {"origin": origin, "state": list(states), "q": query, "job": job}
        wanted["near_copy"] = near_copy if near_copy is None else str(near_copy).lower()
        return self._http.pages(f"/datasets/{_part(dataset)}/samples", wanted, limit)

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

        `format` is jsonl, parquet, csv, or card (Markdown about the dataset). Raises NotFound,
        Invalid, and OSError.
        """
        query = given({"format": format, "state": list(states), "origin": origin})
        draft = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            size = self._http.download(f"/datasets/{_part(dataset)}/export", query, draft)
            draft.replace(path)
            return size
        finally:
            draft.unlink(missing_ok=True)

    def metrics(self, dataset: str) -> Json:
        """What is measured of a dataset."""
        return self._http.get(f"/datasets/{_part(dataset)}/metrics")

    def evaluate(self, dataset: str, **spec: Any) -> Json:
        """Submit a job that measures samples of a dataset beside its real ones; see `metrics`
        for what the newest one found.

        `spec`: `job` (only samples of this generate job), `origin`, `states`, `metrics`,
        `limit`, `seed`. Raises Invalid.
        """
        return self.submit({"kind": "evaluate", "dataset": dataset, **spec})

    def set_defaults(self, dataset: str, defaults: Mapping[str, Any]) -> Json:
        """Set what the dataset's generate jobs take where they leave something out:
        `{guidance?, negatives?, sampling?}`; `{}` gives none. Raises Invalid, NotFound.
        """
        return self._http.call("PUT", f"/datasets/{_part(dataset)}/defaults", defaults, safe=True)

    def negatives(self, dataset: str, limit: int | None = None) -> Iterator[Json]:
        """The dataset's rejected samples, newest first, and how often each was steered from."""
        return self._http.pages(f"/datasets/{_part(dataset)}/negatives", {}, limit)

    def reviews(self, dataset: str, limit: int | None = None) -> Iterator[Json]:
        """A dataset's reviews, newest first."""
        return self._http.pages(f"/datasets/{_part(dataset)}/reviews", {}, limit)

    def review_stats(self, dataset: str) -> Json:
        """Counts of pushes, verdicts and reasons of a dataset, and what its levers learned."""
        found = self.metrics(dataset)
        return {**found["reviews"], "feedback": found["feedback"]}

    def sync_reviews(self, dataset: str) -> Json:
        """Have the dataset's reviews compared with Label Studio now.

        Raises Conflict when there is no Label Studio.
        """
        return self._http.call("POST", f"/datasets/{_part(dataset)}/reviews/sync", safe=True)

    # Model pairs

    def add_model(self, name: str, base: str, expert: str, revision: str | None = None) -> Json:
        """Register a model pair. Raises Conflict when the name is taken, Invalid."""
        body = {"name": name, "base": base, "expert": expert, "revision": revision}
        return self._http.call("POST", "/models", given(body))

    def models(self) -> Iterator[Json]:
        """Every model pair."""
        return self._http.pages("/models", {})

    # Jobs

    def submit(self, spec: Mapping[str, Any], *, idempotency_key: str | None = None) -> Json:
        """Submit a job once, however often the call is tried. Raises Invalid, NotFound.

        The same `idempotency_key` with the same spec gives the same job; raises Conflict with
        another one. A fresh key is used when none is given.
        """
        headers = {"Idempotency-Key": idempotency_key or str(new_id())}
        return self._http.call("POST", "/jobs", spec, headers=headers, safe=True)

    def preview(self, spec: Mapping[str, Any]) -> Json:
        """A few samples for a spec, guided and unguided with the same seeds; nothing is stored.

        Waits for a worker.
        """
        return self._http.call("POST", "/jobs/preview", spec, safe=True)

    def jobs(
        self, *, dataset: str | None = None, state: str | None = None, limit: int | None = None
    ) -> Iterator[Json]:
        """Jobs, newest first."""
        return self._http.pages("/jobs", {"dataset": dataset, "state": state}, limit)

    def job(self, job_id: str) -> Json:
        """A job with its progress. Raises NotFound."""
        return self._http.get(f"/jobs/{_part(job_id)}")

    def shards(self, job_id: str) -> list[Json]:
        """A job's shards in order. Raises NotFound."""
        return list(self._http.get(f"/jobs/{_part(job_id)}/shards")["items"])

    def cancel(self, job_id: str) -> Json:
        """End a job now. Raises Conflict when it has ended."""
        return self._http.call("POST", f"/jobs/{_part(job_id)}/cancel")

    def pause(self, job_id: str) -> Json:
        """Hold a job. Raises Conflict when it has ended."""
        return self._http.call("POST", f"/jobs/{_part(job_id)}/pause", safe=True)

    def resume(self, job_id: str) -> Json:
        """Go on with a paused job. Raises Conflict when it is not paused."""
        return self._http.call("POST", f"/jobs/{_part(job_id)}/resume")

    def push(self, job_id: str) -> Json:
        """Send a job's samples to review, each once: `{owed}`. Raises NotFound."""
        return self._http.call("POST", f"/jobs/{_part(job_id)}/push", safe=True)

    def use(self, job_id: str, position: int | None = None) -> Json:
        """Make a sweep's settings the dataset's defaults: the recommended ones, or those of
        `position`. The dataset. Raises Conflict when there is no recommendation yet.
        """
        return self._http.call(
            "POST", f"/jobs/{_part(job_id)}/use", given({"position": position}), safe=True
        )

    def sweep(self, dataset: str, model: str, **spec: Any) -> Json:
        """Submit a job that tries many settings on the same seeds and recommends one.

        `spec`: `method`, `space`, `points`, `count`, `objective`, `use`, `seed` and fixed
        `guidance`, `negatives`, `sampling`. Without a `space` it is a calibration, with that of
        `factory.search`. Raises Invalid.
        """
        return self.submit({"kind": "sweep", "dataset": dataset, "model": model, **spec})

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
        return self._http.get(f"/samples/{_part(sample_id)}")

    def provenance(self, sample_id: str) -> Json:
        """How a generated sample was made. Raises NotFound, Conflict when it was not."""
        return self._http.get(f"/samples/{_part(sample_id)}/provenance")

    def explain(self, sample_id: str) -> Json:
        """What moved each token of a generated sample. Waits for a worker."""
        return self._http.get(f"/samples/{_part(sample_id)}/explanation")

    def neighbors(self, sample_id: str, k: int = 10) -> list[Json]:
        """The k samples most like this one, nearest first."""
        return list(self._http.get(f"/samples/{_part(sample_id)}/neighbors", {"k": k})["items"])

    def mark(self, sample_id: str, kind: Literal["pinned", "retired"] | None) -> None:
        """Always steer away from a sample, never again, or (None) as from any other."""
        path = f"/samples/{_part(sample_id)}/mark"
        if kind is None:
            self._http.call("DELETE", path, safe=True)
        else:
            self._http.call("PUT", path, {"kind": kind}, safe=True)

    def replay(self, sample_id: str) -> Json:
        """Make a sample again: `{identical, text, expected, first_difference}`, the last null
        or `{position, expected, made, expected_score, made_score}`: two tokens and their scores.

        Waits for a worker.
        """
        return self._http.call("POST", f"/samples/{_part(sample_id)}/replay", safe=True)

    # Tokens

    def create_token(self, name: str) -> Json:
        """A new API token; `token` in the answer is its value, shown only here."""
        return self._http.call("POST", "/tokens", {"name": name})

    def tokens(self) -> Iterator[Json]:
        """Every API token, without its value."""
        return self._http.pages("/tokens", {})

    def revoke_token(self, token_id: str) -> Json:
        """End a token. Raises NotFound."""
        return self._http.call("DELETE", f"/tokens/{_part(token_id)}", safe=True)

    # Budgets

    def budgets(self) -> Iterator[Json]:
        """Every budget, with what is spent of it today."""
        return self._http.pages("/budgets", {})

    def set_budget(
        self,
        amount: int,
        unit: Literal["samples", "tokens"] = "samples",
        *,
        dataset: str | None = None,
        token: str | None = None,
    ) -> Json:
        """Set what may be asked for in a day: of a dataset, of a token (its id), or of the whole
        factory; in place of the budget that there is. Raises Invalid and NotFound."""
        body = given({"amount": amount, "unit": unit, "dataset": dataset, "token": token})
        return self._http.call("PUT", "/budgets", body, safe=True)

    def remove_budget(self, budget_id: str) -> None:
        """Take a budget away. Raises NotFound."""
        self._http.call("DELETE", f"/budgets/{_part(budget_id)}", safe=True)

    def _news(self, job_id: str) -> Iterator[Json]:
        """The job as it is, then from its events."""
        yield self.job(job_id)
        yield from self._http.events(f"/jobs/{_part(job_id)}/events")


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


def _part(value: str) -> str:
    """A value as one part of a path."""
    return quote(str(value), safe="")
