"""Where things are in Label Studio's own pages."""

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
