"""One project and one webhook in Label Studio for each dataset."""

import uuid
from typing import Any

from factory import log
from factory.db import Database
from factory.errors import Invalid, Unavailable
from factory.settings import Settings
from factory.tables import Dataset
from workers.labelstudio import form
from workers.labelstudio.client import Client

WEBHOOK_PATH = "/webhooks/label-studio"
ACTIONS = ["ANNOTATIONS_DELETED", "ANNOTATION_CREATED", "ANNOTATION_UPDATED", "TASKS_DELETED"]
TITLE_LENGTH = 50  # Label Studio's limit

logger = log.get(__name__)


def ensure_project(database: Database, client: Client, dataset_id: uuid.UUID) -> int:
    """The dataset's project, made when there is none; its form is checked.

    A project that our row has lost is found again by the dataset's id in its description. The
    row is locked meanwhile, so that two workers do not make two.
    """
    with database.transaction() as session:
        dataset = session.get_one(Dataset, dataset_id, with_for_update={"key_share": True})
        known = dataset.label_studio_project
        project = client.project(known) if known is not None else None
        if project is not None:
            form.check(project["label_config"])
            return int(project["id"])
        project_id = client.find_project(_marker(dataset)) or _create(client, dataset)
        dataset.label_studio_project = project_id
        return project_id


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
    except (Invalid, Unavailable) as error:
        logger.warning("labelstudio.no_webhook", project=project_id, reason=error.detail)


def _webhook(settings: Settings) -> dict[str, Any]:
    return {
        "url": settings.url.rstrip("/") + WEBHOOK_PATH,
        "headers": {"Authorization": f"Bearer {settings.webhook_secret}"},
        "actions": ACTIONS,
        "is_active": True,
        "send_payload": True,
        "send_for_all_actions": False,
    }


def _register(client: Client, project_id: int, wanted: dict[str, Any]) -> None:
    ours = [hook for hook in client.webhooks(project_id) if hook["url"].endswith(WEBHOOK_PATH)]
    if not ours:
        client.create_webhook(project_id, **wanted)
    elif any(_of(ours[0], name) != value for name, value in wanted.items()):
        client.update_webhook(ours[0]["id"], **wanted)


def _create(client: Client, dataset: Dataset) -> int:
    project_id = client.create_project(
        title=f"Review of {dataset.name}"[:TITLE_LENGTH],
        description=f"{dataset.description}\n\nMade by STEER Factory. {_marker(dataset)}".strip(),
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


def _marker(dataset: Dataset) -> str:
    return f"[dataset {dataset.id}]"


def _of(hook: dict[str, Any], name: str) -> Any:
    value = hook.get(name)
    return sorted(value) if isinstance(value, list) else value
