"""Label Studio's API as we need it, over its SDK, with our errors.

Network trouble, 5xx and 429 raise Unavailable (the same call may succeed later), 404 raises
NotFound, any other 4xx raises Invalid with what Label Studio said. Every call has a timeout and
is sent once: whether and when to try again is decided by `guard` and by who called. What was
lost on the way is looked up by the caller.
"""

import email.utils
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
from label_studio_sdk import LabelStudio
from label_studio_sdk.core.api_error import ApiError
from label_studio_sdk.core.request_options import RequestOptions

from factory.errors import FactoryError, Invalid, NotFound, Unavailable
from factory.settings import Settings

Json = dict[str, Any]
Guard = Callable[[], AbstractContextManager[object]]

TIMEOUT = 30.0  # seconds
LONG = RequestOptions(timeout_in_seconds=120)
PAGE = 500  # tasks in one listing
LOOKUP = 100  # ids in one query: it travels in the address
UNRESOLVED = 500  # Label Studio's answer where it cannot resolve a webhook's host
IMPORT_WAIT = 300.0  # seconds that an asynchronous import may take

TASK_FIELDS = (
    "id,annotations,result,was_cancelled,created_at,updated_at,completed_by,created_username,"
    "lead_time,task"
)


@dataclass(frozen=True)
class Task:
    """A task as fetched. Its annotations are as of `updated_at` (Label Studio's clock) or newer:
    whatever is done to an annotation changes it too."""

    id: int
    updated_at: datetime
    annotations: Sequence[Json]
    sample_id: str | None = None


class Client:
    """One Label Studio, as one user. Every call is made within a `guard`."""

    def __init__(self, url: str, api_key: str, guard: Guard = nullcontext) -> None:
        sdk: Any = LabelStudio
        self._guard = guard
        self.clock = datetime.now(UTC)
        """Label Studio's own clock at its last answer, in whole seconds."""
        web = httpx.Client(event_hooks={"response": [self._note_clock]})
        with self._calling("log in"):
            self._api = sdk(
                base_url=url, api_key=api_key, timeout=TIMEOUT, max_retries=0, httpx_client=web
            )

    # projects and webhooks

    def project(self, project_id: int) -> Json | None:
        """A project's settings; None when there is no such project."""
        try:
            with self._calling("read the project"):
                return dict(self._api.projects.get(project_id).dict())
        except NotFound:
            return None

    def find_project(self, marker: str) -> int | None:
        """The oldest project whose description holds `marker`."""
        with self._calling("list projects"):
            listed = list(self._api.projects.list(include="id,description", page_size=100))
        return min((p.id for p in listed if marker in (p.description or "")), default=None)

    def create_project(self, **settings: Any) -> int:
        """A new project; returns its id."""
        with self._calling("create a project"):
            return int(self._api.projects.create(**settings, request_options=LONG).id)

    def webhooks(self, project_id: int) -> list[Json]:
        """The project's webhooks."""
        with self._calling("list webhooks"):
            return [hook.dict() for hook in self._api.webhooks.list(project=str(project_id))]

    def create_webhook(self, project_id: int, **settings: Any) -> None:
        """A new webhook of the project."""
        with self._calling("create a webhook", UNRESOLVED):
            self._api.webhooks.create(project=project_id, **settings, request_options=LONG)

    def update_webhook(self, webhook_id: int, **settings: Any) -> None:
        """Change a webhook."""
        with self._calling("update a webhook", UNRESOLVED):
            self._api.webhooks.update(webhook_id, **settings)

    # tasks

    def import_tasks(self, project_id: int, tasks: Sequence[Json]) -> dict[uuid.UUID, int]:
        """Create tasks; returns the task of each sample.

        Where the import runs on in the background, waits for its end and looks the tasks up.
        """
        samples = [uuid.UUID(task["data"]["sample_id"]) for task in tasks]
        with self._calling("import tasks"):
            reply = self._api.projects.import_tasks(
                project_id, request=tasks, return_task_ids=True, request_options=LONG
            )
        task_ids = reply.dict().get("task_ids") or []
        if len(task_ids) == len(samples):
            return dict(zip(samples, task_ids, strict=True))
        if reply.import_ is not None:
            self._await_import(project_id, reply.import_)
        return self.find_tasks(project_id, samples)

    def find_tasks(self, project_id: int, sample_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, int]:
        """The tasks that exist already for these samples, the oldest of each."""
        found: dict[uuid.UUID, int] = {}
        for start in range(0, len(sample_ids), LOOKUP):
            wanted = [str(id_) for id_ in sample_ids[start : start + LOOKUP]]
            query = _where(_filter("data.sample_id", "String", "in_list", wanted))
            for task in self._tasks(project_id, query, "id,data"):
                id_ = uuid.UUID(task["data"]["sample_id"])
                found[id_] = min(task["id"], found.get(id_, task["id"]))
        return found

    def tasks(self, project_id: int, task_ids: Sequence[int]) -> list[Task]:
        """These tasks; one that is gone is left out."""
        found: list[Task] = []
        for start in range(0, len(task_ids), LOOKUP):
            wanted = list(task_ids[start : start + LOOKUP])
            query = _where(_filter("id", "Number", "in_list", wanted))
            found += map(_task, self._tasks(project_id, query, TASK_FIELDS))
        return found

    def changed_tasks(self, project_id: int, since: datetime) -> Iterator[list[Task]]:
        """The tasks that were changed after `since`, in pages by ascending id."""
        at = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        changed = _filter("updated_at", "Datetime", "greater", at)
        for page in self._pages(project_id, TASK_FIELDS, changed):
            yield list(map(_task, page))

    def all_tasks(self, project_id: int) -> Iterator[list[Task]]:
        """Every task, in pages by ascending id."""
        for page in self._pages(project_id, f"{TASK_FIELDS},data"):
            yield list(map(_task, page))

    def delete_task(self, task_id: int) -> None:
        """Delete a task, if it is still there."""
        with suppress(NotFound), self._calling("delete a task"):
            self._api.tasks.delete(str(task_id))

    def unannotated(self, project_id: int) -> Iterator[Json]:
        """`{id, data}` of every task without an annotation."""
        for page in self._pages(project_id, "id,data,total_annotations,cancelled_annotations"):
            for task in page:
                if not task["total_annotations"] and not task["cancelled_annotations"]:
                    yield {"id": task["id"], "data": task["data"]}

    # annotations

    def annotate(self, task_id: int, user_id: int, result: Sequence[Json]) -> int:
        """Save an annotation in a user's name; returns its id."""
        with self._calling("save an annotation"):
            saved = self._api.annotations.create(
                task_id,
                result=result,
                completed_by=user_id,
                request_options=LONG,
            )
        return int(saved.id)

    def ensure_user(self, email: str, first_name: str, last_name: str) -> int:
        """The id of the user with this address, made when there is none."""
        with self._calling("list users"):
            known = [user.id for user in self._api.users.list() if user.email == email]
        if known:
            return int(known[0])
        with self._calling("create a user"):
            names = {"first_name": first_name, "last_name": last_name, "username": email[:30]}
            return int(self._api.users.create(email=email, **names, request_options=LONG).id)

    def _pages(self, project_id: int, include: str, *filters: Json) -> Iterator[list[Json]]:
        """Every task by keyset: tasks deleted meanwhile do not shift those that follow."""
        last = 0
        while page := self._tasks(
            project_id, _where(_filter("id", "Number", "greater", last), *filters), include
        ):
            yield page
            last = max(task["id"] for task in page)

    def _tasks(self, project_id: int, query: str, include: str) -> list[Json]:
        """At most PAGE tasks with the fields named, as plain JSON."""
        with self._calling("list tasks"):
            pager = self._api.tasks.list(
                project=project_id,
                query=query,
                fields="all",
                include=include,
                page_size=PAGE,
                resolve_uri=False,
            )
            return [_plain(task, include) for task in pager.items or ()]

    def _await_import(self, project_id: int, import_id: int) -> None:
        deadline = time.monotonic() + IMPORT_WAIT
        while time.monotonic() < deadline:
            with self._calling("follow an import"):
                status = self._api.tasks.create_many_status(project_id, import_id)
            if status.status == "completed":
                return
            if status.status == "failed":
                raise Invalid(f"Label Studio could not import the tasks: {status.error}")
            time.sleep(1)
        raise Unavailable(f"Label Studio still imports the tasks (import {import_id}).")

    @contextmanager
    def _calling(self, what: str, *refusals: int) -> Iterator[None]:
        """Raise our errors. `refusals`: statuses that say no to this call, whatever they are."""
        with self._guard():
            try:
                yield
            except ApiError as error:
                raise _translated(what, error, refusals) from error
            except httpx.HTTPError as error:
                raise Unavailable(
                    f"Label Studio does not answer (to {what}): {error or type(error).__name__}"
                ) from error

    def _note_clock(self, response: httpx.Response) -> None:
        said = response.headers.get("date")
        self.clock = email.utils.parsedate_to_datetime(said) if said else datetime.now(UTC)


def is_set(settings: Settings) -> bool:
    """Whether the settings name a Label Studio."""
    return bool(settings.label_studio_url and settings.label_studio_api_key)


def connect(settings: Settings, guard: Guard = nullcontext) -> Client:
    """The Label Studio that the settings name. Raises Invalid when they name none."""
    if not is_set(settings):
        raise Invalid(
            "No Label Studio is set. Set FACTORY_LABEL_STUDIO_URL and "
            "FACTORY_LABEL_STUDIO_API_KEY, or use `factory up`, which starts one."
        )
    return Client(settings.label_studio_url, settings.label_studio_api_key, guard)


def _translated(what: str, error: ApiError, refusals: Sequence[int]) -> FactoryError:
    status, said = error.status_code or 0, _said(error.body)
    if status == 404:
        return NotFound(f"Label Studio has no such thing (to {what}): {said}")
    if (status in (408, 429) or status >= 500) and status not in refusals:
        return Unavailable(
            f"Label Studio cannot {what} now ({status}): {said}",
            retry_after=_retry_after(error.headers or {}),
        )
    if status in (401, 403):
        return Invalid(
            f"Label Studio refused to {what} ({status}): {said} "
            "Check FACTORY_LABEL_STUDIO_API_KEY and what its user may do."
        )
    return Invalid(f"Label Studio refused to {what} ({status}): {said}")


def _said(body: object) -> str:
    if not isinstance(body, Mapping):
        return str(body)[:500]
    said = body.get("validation_errors") or body.get("detail") or body
    return said if isinstance(said, str) else json.dumps(said, default=str)[:500]


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, as the header gives them or until the time that it names."""
    said = {name.lower(): value for name, value in headers.items()}.get("retry-after", "").strip()
    if said.isdecimal():
        return float(said)
    try:
        until = email.utils.parsedate_to_datetime(said)
    except ValueError:
        return None
    return max(0.0, (until.astimezone(UTC) - datetime.now(UTC)).total_seconds())


def _filter(column: str, type_: str, operator: str, value: object) -> Json:
    """One condition of the data manager."""
    column = f"filter:tasks:{column}"
    return {"filter": column, "operator": operator, "type": type_, "value": value}


def _where(*filters: Json) -> str:
    """Tasks for which all of it holds, ordered by id."""
    both = {"conjunction": "and", "items": filters}
    return json.dumps({"filters": both, "ordering": ["tasks:id"]})


def _task(task: Json) -> Task:
    at = task["updated_at"]
    return Task(
        id=task["id"],
        updated_at=at if isinstance(at, datetime) else datetime.fromisoformat(at),
        annotations=task["annotations"],
        sample_id=(task.get("data") or {}).get("sample_id"),
    )


def _plain(task: Any, include: str) -> Json:
    content: Json = task.dict()
    return {name: content.get(name) for name in include.split(",") if name in content}
