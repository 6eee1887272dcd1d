"""The embedded Label Studio: its own virtual environment, its data folder, one server process.

It has a virtual environment of its own because it pins libraries that ours needs newer.
Webhooks to loopback are forbidden by its defaults; here, and only here, 127.0.0.0/8 is taken
from its list of banned networks, so that it can tell our API of verdicts. All else on that
list stays banned.
"""

import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx

import factory
from factory.errors import StackError
from factory.local import process
from factory.local.process import Command

VERSION = "1.23.2"
USERNAME = "reviewer@localhost"

# Label Studio's own list of banned networks without loopback (127.0.0.0/8).
BANNED_NETWORKS = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12"),
    *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
    *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "233.252.0.0/24", "240.0.0.0/4"),
    *("255.255.255.255/32", "::/128", "::1/128", "::ffff:0:0/96", "::ffff:0:0:0/96"),
    *("64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001:0000::/32", "2001:20::/28"),
    *("2001:db8::/32", "2002::/16", "fc00::/7", "fe80::/10", "ff00::/8"),
)


@dataclass(frozen=True)
class Server:
    """One embedded Label Studio: where it lies, how it is reached, its only user."""

    directory: Path
    venv: Path
    port: int
    password: str
    token: str

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def is_new(self) -> bool:
        """Whether it has never been started: then its first start takes about a minute."""
        return not self.directory.exists()

    def prepare(self) -> Command:
        """The server's command. Raises `StackError` when its environment is not installed."""
        if not is_installed(self.venv):
            raise StackError(f"Label Studio {VERSION} is not installed in {self.venv}.")
        self.directory.mkdir(mode=0o700, exist_ok=True)
        _write_ahead(self.directory / "label_studio.sqlite3")
        arguments = ("start", "--no-browser", "--internal-host", "127.0.0.1")
        return Command(
            name="label-studio",
            argv=(str(_program(self.venv)), *arguments, "--port", str(self.port)),
            env=self._environment(),
            cwd=self.directory,
        )

    def _environment(self) -> Mapping[str, str]:
        return {
            "LABEL_STUDIO_BASE_DATA_DIR": str(self.directory),
            "LABEL_STUDIO_USERNAME": USERNAME,
            "LABEL_STUDIO_PASSWORD": self.password,
            "LABEL_STUDIO_USER_TOKEN": self.token,
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
            "LOG_LEVEL": "WARNING",
            "COLLECT_ANALYTICS": "false",
            "LATEST_VERSION_CHECK": "false",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
            "USE_DEFAULT_BANNED_SUBNETS": "false",
            "USER_ADDITIONAL_BANNED_SUBNETS": ",".join(BANNED_NETWORKS),
            "PYTHONUNBUFFERED": "1",
        }

    def ready(self) -> bool:
        """Whether it answers."""
        return is_healthy(self.url)


def _write_ahead(database: Path) -> None:
    """Put its SQLite file into write-ahead mode, which the file remembers.

    Readers then do not wait for writers: several annotators save twice as many verdicts.
    """
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = wal")


def is_healthy(url: str) -> bool:
    """Whether a Label Studio answers at this address."""
    try:
        return httpx.get(f"{url}/health", timeout=5, follow_redirects=True).is_success
    except httpx.HTTPError:
        return False


def token_is_valid(url: str, token: str) -> bool:
    """Whether Label Studio takes this token. Raises httpx.HTTPError when it is away.

    A legacy token is a plain key; a personal access token is a JWT that buys short-lived ones.
    """
    if token.count(".") == 2:
        body = {"refresh": token}
        return httpx.post(f"{url}/api/token/refresh", json=body, timeout=10).is_success
    headers = {"Authorization": f"Token {token}"}
    return httpx.get(f"{url}/api/current-user/whoami", headers=headers, timeout=10).is_success


def default_venv() -> Path:
    """`.venv-label-studio` beside the virtual environment we run in."""
    return Path(sys.prefix).parent / ".venv-label-studio"


def is_installed(venv: Path) -> bool:
    """Whether the version we want is there, whole (pip installs it after all it needs)."""
    pattern = f"lib/python*/site-packages/label_studio-{VERSION}.dist-info/RECORD"
    return _program(venv).exists() and any(venv.glob(pattern))


def ensure_venv(venv: Path, log_file: Path, env: Mapping[str, str] | None = None) -> None:
    """Install Label Studio into an environment of its own where it is missing (minutes).

    `env` is added to pip's environment. Raises `StackError` with the end of the log when it fails.
    """
    if is_installed(venv):
        return
    for command in _installation(venv, env or {}):
        child = process.launch(command, log_file)
        if child.wait() != 0:
            raise StackError(
                f"Label Studio could not be installed into {venv}. The end of {log_file}:\n"
                f"{process.tail(log_file)}"
            )


def _installation(venv: Path, env: Mapping[str, str]) -> tuple[Command, Command]:
    constraints = Path(factory.__file__).parents[1] / "deploy/label-studio-constraints.txt"
    limits = ("-c", str(constraints)) if constraints.exists() else ()
    install = ("-m", "pip", "install", "--disable-pip-version-check", *limits)
    make = (sys.executable, "-m", "venv", str(venv))
    fill = (str(venv / "bin/python"), *install, f"label-studio=={VERSION}")
    return Command("venv", make, env), Command("pip", fill, env)


def _program(venv: Path) -> Path:
    return venv / "bin" / "label-studio"
