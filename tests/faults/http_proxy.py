"""An HTTP proxy in front of a service that harms requests, on purpose."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from factory.local import process

LONGEST = 30.0  # seconds that a request is kept from the service
NOT_PASSED_ON = {"host", "connection", "transfer-encoding", "content-length", "content-encoding"}


@dataclass(frozen=True)
class Seen:
    """One request that came, and when (time.monotonic())."""

    at: float
    method: str
    path: str

    @property
    def is_import(self) -> bool:
        return self.method == "POST" and self.path.split("?")[0].endswith("/import")


@dataclass
class Harm:
    """What is done to the requests that `picks` names, `times` of them (None: to all).

    cut       the connection is closed without an answer; the service is not asked
    swallow   the service does the work, and its answer is never passed on
    tear      the answer breaks off in its middle
    status    this answer, with these headers; the service is not asked
    delay     seconds before the service is asked
    after     who called is cut off, and the service is asked only once this has come true
    """

    cut: bool = False
    swallow: bool = False
    tear: bool = False
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    after: Callable[[], bool] | None = None
    times: int | None = None
    picks: Callable[[Seen], bool] = lambda seen: True
    done: int = 0


class HttpProxy:
    """Listens on a port of its own and passes requests on to `target` (an http:// address)."""

    def __init__(self, target: str) -> None:
        self.seen: list[Seen] = []
        self.harm = Harm(times=0)
        self.target = target
        self._lock = threading.Lock()
        self._client = httpx.Client(timeout=120)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, name="http-proxy", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._client.close()

    @contextmanager
    def harming(self, harm: Harm) -> Iterator[Harm]:
        """Do it to every request that comes within the block."""
        self.harm = harm
        try:
            yield harm
        finally:
            self.harm = Harm(times=0)

    def harm_for(self, seen: Seen) -> Harm | None:
        """What to do to this request."""
        with self._lock:
            self.seen.append(seen)
            harm = self.harm
            if not harm.picks(seen) or (harm.times is not None and harm.done >= harm.times):
                return None
            harm.done += 1
            return harm

    def ask(self, seen: Seen, headers: dict[str, str], body: bytes) -> httpx.Response:
        kept = {k: v for k, v in headers.items() if k.lower() not in NOT_PASSED_ON}
        return self._client.request(
            seen.method, self.target + seen.path, headers=kept, content=body
        )


def _handler(proxy: HttpProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            seen = Seen(time.monotonic(), self.command, self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            harm = proxy.harm_for(seen)
            self.close_connection = True
            with suppress(OSError, httpx.HTTPError):
                if harm is None:
                    self._reply(proxy.ask(seen, dict(self.headers), body))
                else:
                    self._harm(harm, seen, body)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = handle_one  # noqa: N815

        def _harm(self, harm: Harm, seen: Seen, body: bytes) -> None:
            if harm.cut:
                return
            if harm.status:
                self._answer(harm.status, harm.headers, b'{"detail": "harmed on purpose"}')
                return
            if harm.after:
                self.connection.shutdown(socket.SHUT_RDWR)
                process.until(harm.after, LONGEST)
            time.sleep(harm.delay)
            answer = proxy.ask(seen, dict(self.headers), body)
            if harm.tear:
                self._answer(200, {}, answer.content, torn=True)
            elif not (harm.swallow or harm.after):
                self._reply(answer)

        def _reply(self, answer: httpx.Response) -> None:
            kept = {k: v for k, v in answer.headers.items() if k.lower() not in NOT_PASSED_ON}
            self._answer(answer.status_code, kept, answer.content)

        def _answer(
            self, status: int, headers: dict[str, str], body: bytes, *, torn: bool = False
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in ("date", "server"):
                    self.send_header(name, value)
            self.send_header("Connection", "close")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if torn else body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: what came is in `seen`."""

    return Handler
