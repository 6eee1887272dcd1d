"""`factory doctor --deep`: the invariants, on the database and on Label Studio beside it.

Label Studio is asked over plain HTTP: its own library belongs to the workers.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from factory import invariants
from factory.db import Database
from factory.errors import Invalid
from factory.invariants import Task, Violation
from factory.local.doctor import with_running_stack
from factory.local.home import Home
from factory.reviews import VERDICTS
from factory.settings import Settings

FIELDS = "id,data,annotations,result,was_cancelled,updated_at"  # of tasks and of annotations
PAGE = 500  # tasks in one call
TIMEOUT = 60.0  # seconds for one page


@dataclass(frozen=True)
class Examined:
    """What was found, and what could not be looked at."""

    violations: tuple[Violation, ...]
    unchecked: tuple[str, ...]


def examine(settings: Settings) -> Examined:
    """Check every invariant of the factory that the settings name, or that runs here.

    Raises Invalid when there is none, Unavailable when its database does not answer.
    """
    known = with_running_stack(settings, Home(settings.home))
    if not known.database_url:
        raise Invalid("No factory runs here. Set FACTORY_DATABASE_URL, or start one: `factory up`.")
    database = Database(known.database_url)
    try:
        with database.snapshot() as session:
            found = invariants.violations(session)
        reviewed, unchecked = _examine_reviews(known, database)
        return Examined((*found, *reviewed), unchecked)
    finally:
        database.close()


def _examine_reviews(
    settings: Settings, database: Database
) -> tuple[list[Violation], tuple[str, ...]]:
    with database.transaction() as session:
        projects = sorted(invariants.projects(session).values())
    if not projects:
        return [], ()
    if not (settings.label_studio_url and settings.label_studio_api_key):
        return [], ("Label Studio: FACTORY_LABEL_STUDIO_URL and _API_KEY are not set",)
    found: list[Violation] = []
    try:
        with connected(settings.label_studio_url, settings.label_studio_api_key) as client:
            for project in projects:
                tasks = list(tasks_of(client, project))
                with database.snapshot() as session:
                    found += invariants.task_violations(session, project, tasks)
    except httpx.HTTPError as error:
        return found, (f"Label Studio: {error}",)
    return found, ()


def connected(url: str, token: str) -> httpx.Client:
    """A client of Label Studio's API. Raises httpx.HTTPError when it is away or refuses the token.

    A personal access token (a JWT) buys one that lives for minutes.
    """
    client = httpx.Client(base_url=url.rstrip("/"), timeout=TIMEOUT)
    if token.count(".") == 2:
        bought = client.post("/api/token/refresh", json={"refresh": token}).raise_for_status()
        client.headers["Authorization"] = f"Bearer {bought.json()['access']}"
    else:
        client.headers["Authorization"] = f"Token {token}"
    return client


def tasks_of(client: httpx.Client, project: int) -> Iterator[Task]:
    """Every task of a project by ascending id; none when the project is gone."""
    last = 0
    while page := _page(client, project, last):
        yield from map(_task, page)
        last = max(task["id"] for task in page)


def _page(client: httpx.Client, project: int, after: int) -> list[dict[str, Any]]:
    item = {
        "filter": "filter:tasks:id",
        "operator": "greater",
        "type": "Number",
        "value": after,
    }
    query = {"filters": {"conjunction": "and", "items": [item]}, "ordering": ["tasks:id"]}
    answer = client.get(
        "/api/tasks",
        params={
            "project": project,
            "query": json.dumps(query),
            "fields": "all",
            "include": FIELDS,
            "page_size": PAGE,
            "resolve_uri": "false",
        },
    )
    if answer.status_code == httpx.codes.NOT_FOUND:
        return []
    tasks: list[dict[str, Any]] = answer.raise_for_status().json()["tasks"]
    return tasks


def _task(task: Mapping[str, Any]) -> Task:
    verdicts = tuple(found for each in task["annotations"] if (found := _verdict(each)))
    return Task(int(task["id"]), str(task["data"].get("sample_id")), verdicts)


def _verdict(annotation: Mapping[str, Any]) -> tuple[int, str, datetime] | None:
    """(annotation id, verdict, last change); None where it says nothing, as a skipped one."""
    named = [
        item["value"].get("choices")
        for item in annotation["result"] or ()
        if item.get("from_name") == "verdict"
    ]
    if annotation["was_cancelled"] or not named or len(named[-1] or ()) != 1:
        return None
    verdict = named[-1][0]
    at = datetime.fromisoformat(annotation["updated_at"])
    return (int(annotation["id"]), verdict, at) if verdict in VERDICTS else None
