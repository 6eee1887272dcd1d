"""FACTORY_HOME: where everything lies, the secrets made once, the ports, the lock.

.factory/
  secrets.json    passwords and tokens, made at the first start (0600)
  ports.json      the ports in use, kept as long as they are free
  stack.json      what runs now: addresses, children with pid and start time
  lock            held by the one running `factory up` or `factory demo`
  logs/<child>.log
  postgres/ redis/ label-studio/ models/ demo/
"""

import fcntl
import json
import os
import random
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from factory.errors import Conflict, StackError

# Below the range that the kernel hands out to outgoing connections.
PORT_RANGE = range(20_000, 32_000)


@dataclass(frozen=True)
class Home:
    """The layout of one FACTORY_HOME."""

    root: Path

    @property
    def secrets(self) -> Path:
        return self.root / "secrets.json"

    @property
    def ports(self) -> Path:
        return self.root / "ports.json"

    @property
    def stack(self) -> Path:
        return self.root / "stack.json"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def postgres(self) -> Path:
        return self.root / "postgres"

    @property
    def redis(self) -> Path:
        return self.root / "redis"

    @property
    def label_studio(self) -> Path:
        return self.root / "label-studio"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def demo(self) -> Path:
        return self.root / "demo"


@dataclass(frozen=True)
class Secrets:
    """Passwords and tokens of the embedded stack."""

    postgres_password: str
    redis_password: str
    label_studio_password: str
    label_studio_token: str
    """40 hexadecimal characters, as Label Studio wants its legacy tokens."""
    webhook_secret: str
    secret_key: str
    token: str
    """The API token of the local user."""


@dataclass(frozen=True)
class Ports:
    """One TCP port of 127.0.0.1 per server."""

    web: int
    postgres: int
    redis: int
    label_studio: int


def open_home(root: Path) -> Home:
    """The home, its folders made where missing.

    Raises `StackError` when the folder cannot be written to.
    """
    home = Home(root.expanduser().resolve())
    try:
        # Others may pass through (Postgres may run as `nobody`) but not list it.
        home.root.mkdir(parents=True, exist_ok=True)
        home.root.chmod(0o711)
        for folder in (home.models, home.demo):
            folder.mkdir(exist_ok=True)
        for private in (home.logs, home.redis):
            private.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StackError(
            f"The folder {home.root} cannot be used: {error.strerror}. "
            "Set FACTORY_HOME to a folder that you may write to."
        ) from error
    return home


def read_json(path: Path) -> dict[str, object]:
    """A JSON object from a file, empty when there is none. Raises `StackError` when broken."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise StackError(f"{path} cannot be read ({error}): mend or remove it.") from error
    if not isinstance(value, dict):
        raise StackError(f"{path} does not hold a JSON object: mend or remove it.")
    return value


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write a JSON object, readable by its owner only, whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
    fresh.replace(path)


def load_secrets(home: Home) -> Secrets:
    """The stack's secrets; those that are missing are made and kept."""
    known = read_json(home.secrets)
    values = {
        field.name: str(known.get(field.name) or secrets.token_hex(20)) for field in fields(Secrets)
    }
    if values != known:
        write_json(home.secrets, values)
    return Secrets(**values)


def choose_ports(home: Home, web: int = 0) -> Ports:
    """The ports of the last start where they are free, else free ones; `web` if given.

    Raises `StackError` when the wanted web port is taken.
    """
    if web and not port_is_free(web):
        raise StackError(
            f"Port {web} (FACTORY_PORT) is taken by another program: "
            "choose another, or unset FACTORY_PORT to get a free one."
        )
    known, chosen = read_json(home.ports), {"web": web} if web else {}
    for field in fields(Ports):
        if field.name not in chosen:
            chosen[field.name] = _port(known.get(field.name), taken=set(chosen.values()))
    ports = Ports(**chosen)
    write_json(home.ports, asdict(ports))
    return ports


def _port(known: object, taken: set[int]) -> int:
    if isinstance(known, int) and known not in taken and port_is_free(known):
        return known
    return free_port(taken)


def free_port(taken: set[int] | frozenset[int] = frozenset()) -> int:
    """A port of 127.0.0.1 that nothing listens on. Raises `StackError` when none is found."""
    for port in random.sample(PORT_RANGE, 200):
        if port not in taken and port_is_free(port):
            return port
    raise StackError("No free TCP port was found on 127.0.0.1.")


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextmanager
def locked(home: Home) -> Iterator[None]:
    """Hold the home's lock for the block; the kernel frees it when its holder dies.

    Raises `Conflict` when another process holds it.
    """
    descriptor = _take_lock(home)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        home.lock.unlink(missing_ok=True)
        os.close(descriptor)


def _take_lock(home: Home) -> int:
    while True:
        descriptor = os.open(home.lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode().strip()
            os.close(descriptor)
            raise Conflict(
                f"A stack is running in {home.root} already (pid {holder}). "
                "Stop it first, or set FACTORY_HOME to another folder."
            ) from None
        if _is_current(descriptor, home.lock):
            return descriptor
        os.close(descriptor)  # its last holder removed the file under us: try the new one


def _is_current(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
