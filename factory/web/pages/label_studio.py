"""Where things are in Label Studio's own pages, and whether it can be reached."""

from dataclasses import dataclass

import httpx

from factory.settings import Settings
from factory.tables import Push


def project_url(settings: Settings, project: int | None) -> str | None:
    """A project's page; None when there is none yet."""
    base = settings.label_studio_url.rstrip("/")
    return f"{base}/projects/{project}/data" if base and project is not None else None


def task_url(settings: Settings, project: int | None, task: int | None) -> str | None:
    """A task's page; None when the sample was not pushed."""
    url = project_url(settings, project)
    return f"{url}?task={task}" if url and task is not None else None


def push_url(settings: Settings, push: Push | None) -> str | None:
    """A pushed sample's task; None where there is none."""
    return task_url(settings, push.project_id, push.task_id) if push else None


PATIENCE = 5.0  # seconds that a test of the connection waits for each answer


@dataclass(frozen=True)
class Tested:
    """What a test of the connection came to, in words."""

    good: bool
    said: str


def tested(settings: Settings) -> Tested:
    """Ask Label Studio whether it is there, and whether it takes the API key."""
    base, key = settings.label_studio_url.rstrip("/"), settings.label_studio_api_key
    if not base:
        return Tested(False, "FACTORY_LABEL_STUDIO_URL is not set.")
    try:
        with httpx.Client(base_url=base, timeout=PATIENCE) as http:
            status = http.get("/health").status_code
            if status != 200:
                return Tested(False, f"{base} answers, but not as Label Studio does ({status}).")
            if not _takes(http, key):
                told = "It answers, and refuses the API key. Set FACTORY_LABEL_STUDIO_API_KEY."
                return Tested(False, told)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Tested(False, f"{base} does not answer ({type(error).__name__}). Does it run?")
    return Tested(True, "Label Studio answers and takes the API key.")


def _takes(http: httpx.Client, key: str) -> bool:
    """Whether a key is good: a personal access token is one that is exchanged for another."""
    if not key.isascii() or not key.isprintable():
        return False
    if "." in key:
        return http.post("/api/token/refresh/", json={"refresh": key}).status_code == 200
    headers = {"Authorization": f"Token {key}"}
    return http.get("/api/current-user/whoami", headers=headers).status_code == 200
