"""The demo's reviewer at work. SIMULATED: a rule's verdicts, saved under a name that says so.

It reviews as people do: through Label Studio's API, task by task, several at once. It may be
stopped and started again at any time: tasks that have an annotation are passed over.
"""

import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from factory import log
from factory.db import Database
from factory.local.demo import reviewer
from factory.tables import Dataset
from workers.labelstudio import form
from workers.labelstudio.client import Client, Json

EMAIL, FIRST_NAME, LAST_NAME = "simulated-reviewer@localhost", "Simulated", "reviewer"
AT_ONCE = 4  # more did not raise the rate: Label Studio writes to one SQLite file

logger = log.get(__name__)


def review_dataset(database: Database, client: Client, dataset_id: uuid.UUID) -> int:
    """Annotate every task of the dataset that has no annotation; returns how many."""
    with database.transaction() as session:
        project_id = session.get_one(Dataset, dataset_id).label_studio_project
    if project_id is None:
        return 0
    user_id = client.ensure_user(EMAIL, FIRST_NAME, LAST_NAME)
    total = 0
    while tasks := list(client.unannotated(project_id)):
        _annotate(client, user_id, tasks)
        total += len(tasks)
    logger.info("reviewer.done", dataset=str(dataset_id), annotations=total)
    return total


def answers(text: str) -> list[Json]:
    """What the simulated reviewer fills into the form for a text."""
    said = reviewer.review(text)
    filled = [_answer(form.VERDICT, [said.verdict])]
    return filled + ([_answer(form.REASONS_FIELD, list(said.reasons))] if said.reasons else [])


def _annotate(client: Client, user_id: int, tasks: Sequence[Json]) -> None:
    """Annotate the tasks, several at once. A failure ends it, after those in hand."""

    def annotate(task: Json) -> None:
        client.annotate(task["id"], user_id, answers(task["data"]["text"]))

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="reviewer") as annotators:
        try:
            for _ in annotators.map(annotate, tasks):
                pass
        finally:
            annotators.shutdown(cancel_futures=True)


def _answer(question: str, choices: list[str]) -> Json:
    return {
        "from_name": question,
        "to_name": form.TEXT,
        "type": "choices",
        "value": {"choices": choices},
    }
