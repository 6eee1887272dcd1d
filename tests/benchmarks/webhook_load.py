"""How long Label Studio waits for our answer to its webhook, at a steady rate on loopback.

    python tests/benchmarks/webhook_load.py [--rate 100] [--seconds 20] [--json]

Events go out by the clock, whether or not earlier ones were answered, so that a slow answer delays
no other; what is measured is from the moment an event was due until its answer. Once with one web
process as `factory serve` runs it, once with two that share the events, beside `/healthz` (which
does nothing) at the same rate. An answer is due within 200 ms, and is given once the event is
stored in Postgres with its wake-up.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
from sqlalchemy import func, select

from factory.db import Database
from factory.local import home, postgres, process, redis
from factory.local.process import Command
from factory.tables import WebhookEvent

DUE = 200.0  # ms
SECRET = "the-secret"
SENDERS = 64


@dataclass(frozen=True)
class Measured:
    """Answers to one load; times in ms."""

    what: str
    processes: int
    rate: int
    sent: int
    answered: int
    stored: int
    p50: float
    p95: float
    p99: float
    worst: float
    within: float
    """Share of answers within DUE."""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="factory-load-") as folder:
        measured = list(_measure(Path(folder), arguments.rate, arguments.seconds))
    if arguments.json:
        _say(json.dumps([asdict(each) for each in measured]))
    else:
        _say(_table(measured))
    return 0


def _measure(folder: Path, rate: int, seconds: float) -> Iterator[Measured]:
    folder.chmod(0o711)
    server = postgres.Server(folder / "postgres", home.free_port(), "test")
    broker = redis.Server(folder / "redis", home.free_port(), "test")
    with server.running(folder / "postgres.log"), broker.running(folder / "redis.log"):
        given = {
            "FACTORY_DATABASE_URL": server.url(),
            "FACTORY_BROKER_URL": broker.url(),
            "FACTORY_WEBHOOK_SECRET": SECRET,
            "FACTORY_SECRET_KEY": "0" * 64,
            "FACTORY_HOME": str(folder / "home"),
        }
        done = process.run(_command(given, "migrate"))
        assert done.returncode == 0, done.stdout
        for processes in (1, 2):
            with _serving(folder, given, processes) as urls:
                for what, send in (("/healthz", _ask), ("webhook", _tell)):
                    _load(urls, send, rate, 2)  # warm
                    yield _measured(server.url(), what, urls, send, rate, seconds)


def _measured(
    database_url: str,
    what: str,
    urls: Sequence[str],
    send: "Send",
    rate: int,
    seconds: float,
) -> Measured:
    before = _stored(database_url)
    times = sorted(_load(urls, send, rate, seconds))
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return Measured(
        what=what,
        processes=len(urls),
        rate=rate,
        sent=int(rate * seconds),
        answered=len(times),
        stored=_stored(database_url) - before,
        p50=round(cuts[49], 1),
        p95=round(cuts[94], 1),
        p99=round(cuts[98], 1),
        worst=round(times[-1], 1),
        within=sum(each <= DUE for each in times) / (rate * seconds),
    )


Send = Callable[[httpx.Client, str], httpx.Response]


def _load(urls: Sequence[str], send: Send, rate: int, seconds: float) -> list[float]:
    """Send by the clock; returns the ms of every event that was answered with a 2xx."""
    start = time.monotonic() + 0.5
    limits = httpx.Limits(max_connections=SENDERS, max_keepalive_connections=SENDERS)
    with httpx.Client(timeout=10, limits=limits) as client:

        def one(number: int) -> float | None:
            due = start + number / rate
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                answer = send(client, urls[number % len(urls)])
            except httpx.HTTPError:
                return None
            return (time.monotonic() - due) * 1000 if answer.is_success else None

        with ThreadPoolExecutor(SENDERS) as senders:
            times = list(senders.map(one, range(int(rate * seconds))))
    return [each for each in times if each is not None]


def _tell(client: httpx.Client, url: str) -> httpx.Response:
    """An event of the size that Label Studio sends, never one that was sent before."""
    number = uuid.uuid4().int % 2**31
    event = {
        "action": "ANNOTATION_CREATED",
        "annotation": {"id": number, "updated_at": "2026-01-01T00:00:00Z", "task": number},
        "task": {"id": number, "data": {"text": "word " * 200, "sample_id": str(uuid.uuid4())}},
        "project": {"id": 1, "title": "t" * 50, "label_config": "x" * 1500},
    }
    headers = {"Authorization": f"Bearer {SECRET}"}
    return client.post(f"{url}/webhooks/label-studio", json=event, headers=headers)


def _ask(client: httpx.Client, url: str) -> httpx.Response:
    return client.get(f"{url}/healthz")


def _stored(database_url: str) -> int:
    database = Database(database_url)
    with database.transaction() as session:
        count = session.scalar(select(func.count()).select_from(WebhookEvent)) or 0
    database.close()
    return count


@contextmanager
def _serving(folder: Path, given: dict[str, str], processes: int) -> Iterator[list[str]]:
    with ExitStack() as stack:
        urls = []
        for number in range(processes):
            port = home.free_port()
            command = _command({**given, "FACTORY_PORT": str(port)}, "serve")
            child = process.launch(command, folder / f"web-{number}.log")
            stack.callback(process.end, child, command.stop_signal, 10)
            urls.append(f"http://127.0.0.1:{port}")
        for url in urls:
            assert process.until(lambda url=url: _answers(url), 60), folder
        yield urls


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).is_success
    except httpx.HTTPError:
        return False


def _command(given: dict[str, str], name: str) -> Command:
    environment = {**given, "PYTHONPATH": os.getcwd(), "FACTORY_LOG_LEVEL": "WARNING"}
    return Command(name, (sys.executable, "-m", "factory", name), environment, Path.cwd())


def _table(measured: Sequence[Measured]) -> str:
    head = "what       processes  rate/s  sent  answered  stored    p50    p95    p99 worst in time"
    rows = [
        f"{m.what:<10} {m.processes:>9} {m.rate:>7} {m.sent:>5} {m.answered:>9} {m.stored:>7} "
        f"{m.p50:>6} {m.p95:>6} {m.p99:>6} {m.worst:>6} {m.within:>7.1%}"
        for m in measured
    ]
    return "\n".join([head, *rows])


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
