"""One project and one webhook in Label Studio for each dataset."""

import uuid
from functools import partial
from typing import Any

from sqlalchemy.orm import Session

from factory import log, pushes
from factory.db import Database
from factory.errors import Invalid
from factory.settings import Settings
from factory.tables import Dataset
from workers.labelstudio import form
from workers.labelstudio.client import Client, Json

WEBHOOK_PATH = "/webhooks/label-studio"
ACTIONS = ["ANNOTATIONS_DELETED", "ANNOTATION_CREATED", "ANNOTATION_UPDATED", "TASKS_DELETED"]
BY_US = "Made by STEER Factory."
TITLE_LENGTH = 50  # Label Studio's limit

logger = log.get(__name__)


def ensure_project(database: Database, client: Client, dataset_id: uuid.UUID) -> int:
    """The dataset's project, made when there is none; its form is checked.

    A project that our row has lost, or whose reply was lost, is found again by the dataset's id
    in its description. Only one process may do this for a dataset at a time.
    """
    project = find_project(database, client, dataset_id)
    if project is not None:
        form.check(project["label_config"])
        return int(project["id"])
    dataset = database.retrying(lambda s: s.get_one(Dataset, dataset_id))
    project_id = client.find_project(_marker(dataset_id)) or _create(client, dataset)
    database.retrying(partial(_note, dataset_id=dataset_id, project_id=project_id))
    return project_id


def find_project(database: Database, client: Client, dataset_id: uuid.UUID) -> Json | None:
    """The dataset's project as Label Studio has it; None when there is none (yet, or any more).

    Where it is gone, what it held without a review is owed to the next one.
    """
    known = database.retrying(lambda s: s.get_one(Dataset, dataset_id).label_studio_project)
    if known is None:
        return None
    project = client.project(known)
    if project is not None and _is_of(client, project, dataset_id):
        return project
    waiting = database.retrying(partial(pushes.release, dataset_id=dataset_id, project_id=known))
    logger.warning("labelstudio.project_gone", project=known, waiting=waiting)
    return None


def _is_of(client: Client, project: Json, dataset_id: uuid.UUID) -> bool:
    """Whether it is the dataset's, and not one of the same number in another Label Studio. Who
    has changed its description has left the webhook to us."""
    if _marker(dataset_id) in (project.get("description") or ""):
        return True
    return any(_is_ours(hook) for hook in client.webhooks(int(project["id"])))


def _note(session: Session, dataset_id: uuid.UUID, project_id: int) -> None:
    session.get_one(Dataset, dataset_id).label_studio_project = project_id


def ensure_webhook(client: Client, settings: Settings, project_id: int) -> None:
    """Have Label Studio tell us of verdicts, at the address and with the secret of now.

    Where it refuses the address (it takes only names that it can resolve, and none without a
    dot but `localhost`), verdicts still come, later: by reconciling.
    """
    if not settings.url or not settings.webhook_secret:
        logger.warning("labelstudio.no_webhook", reason="FACTORY_URL or FACTORY_WEBHOOK_SECRET")
        return
    try:
        _register(client, project_id, _webhook(settings))
    except Invalid as error:
        logger.warning("labelstudio.no_webhook", project=project_id, reason=error.detail)


def _webhook(settings: Settings) -> Json:
    return {
        "url": settings.url.rstrip("/") + WEBHOOK_PATH,
        "headers": {"Authorization": f"Bearer {settings.webhook_secret}"},
        "actions": ACTIONS,
        "is_active": True,
        "send_payload": True,
        "send_for_all_actions": False,
    }


def _register(client: Client, project_id: int, wanted: Json) -> None:
    ours = [hook for hook in client.webhooks(project_id) if _is_ours(hook)]
    if not ours:
        client.create_webhook(project_id, **wanted)
    elif any(_of(ours[0], name) != value for name, value in wanted.items()):
        client.update_webhook(ours[0]["id"], **wanted)


def _is_ours(hook: Json) -> bool:
    return str(hook["url"]).endswith(WEBHOOK_PATH)


def _create(client: Client, dataset: Dataset) -> int:
    project_id = client.create_project(
        title=f"Review of {dataset.name}"[:TITLE_LENGTH],
        description=f"{dataset.description}\n\n{BY_US} {_marker(dataset.id)}".strip(),
        label_config=form.label_config(),
        expert_instruction=form.instruction(dataset.name, dataset.prompt),
        show_instruction=True,
        show_skip_button=True,
        enable_empty_annotation=False,
        maximum_annotations=1,
        show_collab_predictions=False,  # the model's opinion must not sway the reviewer's
    )
    logger.info("labelstudio.project_created", dataset=dataset.name, project=project_id)
    return project_id


def _marker(dataset_id: uuid.UUID) -> str:
    return f"[dataset {dataset_id}]"


def _of(hook: Json, name: str) -> Any:
    value = hook.get(name)
    return sorted(value) if isinstance(value, list) else value
