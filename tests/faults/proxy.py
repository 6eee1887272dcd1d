"""A TCP proxy that harms what passes through it, on purpose."""

import random
import selectors
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self

COMMIT = b"COMMIT"


class Trap:
    """Catches what the target sends next: it is not passed on, and its connection ends when the
    trap is opened."""

    def __init__(self) -> None:
        self.caught = threading.Event()
        self.opened = threading.Event()


class Proxy:
    """Listens on a port of its own and passes bytes on to `target` (a port of 127.0.0.1).

    `cut` ends every connection. While `refusing`, new ones are closed at once. Of the COMMITs
    that pass, `lost_replies` (a share) are carried out but never answered, and `lost_commits`
    never arrive; both end the connection. `lost` counts both. A `trap` catches every answer.
    """

    def __init__(self, target: int, seed: int = 0) -> None:
        self._target = target
        self._random = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self.refusing = False
        self.lost_replies = 0.0
        self.lost_commits = 0.0
        self.lost = 0
        self.trap: Trap | None = None
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all connections and take no new one."""
        self.refusing = True
        self._listener.close()
        self.cut()

    def cut(self) -> int:
        """End every connection that passes through; returns how many there were."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            _end(*pair)
        return len(pairs)

    def ends(self) -> dict[int, int]:
        """Of each connection that passes through: our port towards the target, and the client's
        port."""
        found = {}
        with self._lock:
            for client, server in self._pairs:
                with suppress(OSError):
                    found[server.getsockname()[1]] = client.getpeername()[1]
        return found

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._pairs.add((client, server))
            threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError), selectors.DefaultSelector() as ready:
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            while self._carry_once(ready, client, server):
                pass
        _end(client, server)
        with self._lock:
            self._pairs.discard((client, server))
        client.close()
        server.close()

    def _carry_once(
        self, ready: selectors.BaseSelector, client: socket.socket, server: socket.socket
    ) -> bool:
        """Pass on what has come; False when the connection ends."""
        for key, _ in ready.select():
            source, sink = key.fileobj, key.data
            assert isinstance(source, socket.socket)
            chunk = source.recv(65536)
            if not chunk or (source is client and not self._spares(chunk, server)):
                return False
            if source is server and (trap := self.trap) is not None:
                trap.caught.set()
                trap.opened.wait(60)
                return False
            sink.sendall(chunk)
        return True

    def _spares(self, chunk: bytes, server: socket.socket) -> bool:
        """Whether this chunk of the client's passes unharmed."""
        if COMMIT not in chunk:
            return True
        dice = self._random.random()
        if dice < self.lost_commits:
            self.lost += 1
            return False
        if dice < self.lost_commits + self.lost_replies:
            self.lost += 1
            server.sendall(chunk)
            server.settimeout(5)
            server.recv(65536)  # it is carried out now; nobody is told
            return False
        return True


def _end(*connections: socket.socket) -> None:
    for connection in connections:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
