"""Where the commands find the factory: FACTORY_URL and FACTORY_TOKEN, or the local stack's own."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from pydantic import ValidationError

from factory import settings as settings_module
from factory.client import Client
from factory.errors import FieldError, Invalid, Unavailable
from factory.local import home
from factory.settings import Settings

MEND = "Start one here with `factory up`, or point FACTORY_URL and FACTORY_TOKEN to one that runs."


def load_settings() -> Settings:
    """The settings of this process. Raises Invalid naming the variable that is wrong."""
    try:
        return settings_module.load()
    except ValidationError as error:
        raise Invalid(
            "The settings are not valid.",
            [
                FieldError(f"FACTORY_{'.'.join(map(str, each['loc'])).upper()}", each["msg"])
                for each in error.errors()
            ],
        ) from error


def require(settings: Settings, *names: str) -> None:
    """Raise Invalid unless these settings are set."""
    missing = [
        FieldError(f"FACTORY_{n.upper()}", "is not set") for n in names if not _has(settings, n)
    ]
    if missing:
        raise Invalid(
            "This process needs settings that are not set. (`factory up` sets them for its own.)",
            missing,
        )


@contextmanager
def connected() -> Iterator[Client]:
    """A client of the factory that the commands talk to.

    Raises Unavailable, with how to mend it, when there is none or it cannot be reached.
    """
    url, token = _address(load_settings())
    try:
        with Client(url, token) as client:
            yield client
    except Unavailable as error:
        if isinstance(error.__cause__, httpx.TransportError):
            raise Unavailable(f"{error.detail} {MEND}") from error
        raise


def _address(settings: Settings) -> tuple[str, str]:
    if settings.url:
        return settings.url, settings.token
    stack = home.read_json(home.Home(settings.home).stack).get("addresses")
    if not isinstance(stack, dict) or not stack:
        raise Unavailable(f"No factory runs in {settings.home}. {MEND}")
    return str(stack["url"]), settings.token or str(stack["token"])


def _has(settings: Settings, name: str) -> bool:
    return bool(getattr(settings, name))
