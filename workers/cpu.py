"""Celery entry of CPU workers: embeddings, evaluations, sweeps, the way to Label Studio and back.

    celery -A workers.cpu worker -Q cpu        (what `factory worker cpu` runs)

Every message may come twice or be lost. A task does nothing unless its wake-up is still owed,
and settles it when the work is done; what fails stays owed and is sent again.
"""

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from factory import circuits, log, outbox, pushes, reviews
from factory.circuits import LABEL_STUDIO
from factory.errors import FactoryError, HeldBack, Unavailable
from workers import embedding, process, reviewer
from workers.embed import embed_dataset
from workers.embedding import Embedder
from workers.evaluate import Evaluator
from workers.labelstudio import breaker
from workers.labelstudio.client import Client, connect, is_set
from workers.labelstudio.push import push_dataset
from workers.labelstudio.reconcile import reconcile_dataset
from workers.labelstudio.refresh import handle_events
from workers.map import draw_dataset
from workers.process import Worker

logger = log.get(__name__)


@dataclass
class CpuWorker:
    """One CPU worker: its embedding model and its Label Studio, each loaded when first needed."""

    worker: Worker
    _loading: threading.Lock = field(default_factory=threading.Lock)
    _embedder: Embedder | None = None
    _client: Client | None = None

    def embed(self, dataset_id: uuid.UUID) -> None:
        """Embed the dataset's samples that have no embedding."""
        with self._reported("embed", dataset=str(dataset_id)):
            self._while_owed(outbox.EMBED, dataset_id, self._embed)

    def run_shard(self, shard_id: uuid.UUID) -> None:
        """Work on the shard of an evaluate job or a sweep."""
        with self._reported("run_shard", shard=str(shard_id)):
            settings, database = self.worker.settings, self.worker.database
            shutdown, embedder = self.worker.shutdown, self._embedding_model
            Evaluator(settings, database, shutdown, embedder=embedder).run_shard(shard_id)

    def draw_map(self, dataset_id: uuid.UUID) -> None:
        """Draw the dataset's map."""
        with self._reported("draw_map", dataset=str(dataset_id)):
            self._while_owed(outbox.DRAW_MAP, dataset_id, self._draw_map)

    def push(self, dataset_id: uuid.UUID) -> None:
        """Send the dataset's waiting samples to Label Studio."""
        self._for_label_studio(outbox.PUSH, dataset_id, self._push)

    def reconcile(self, dataset_id: uuid.UUID) -> None:
        """Compare the dataset's reviews with Label Studio."""
        self._for_label_studio(outbox.RECONCILE, dataset_id, self._reconcile)

    def handle_event(self, event_id: uuid.UUID) -> None:
        """Handle every waiting event, this one among them."""
        self._for_label_studio(outbox.HANDLE_EVENT, event_id, self._handle_events)

    def simulate_reviews(self, dataset_id: uuid.UUID) -> None:
        """Let the demo's simulated reviewer review the dataset, unless it is at it already."""
        with (
            self._reported("simulate_reviews", dataset=str(dataset_id)),
            self.worker.database.only_one(f"simulate_reviews/{dataset_id}") as mine,
        ):
            if mine:
                reviewer.review_dataset(self.worker.database, self._label_studio(), dataset_id)

    def _embed(self, dataset_id: uuid.UUID) -> None:
        embed_dataset(self.worker.database, self._embedding_model(), dataset_id)

    def _draw_map(self, dataset_id: uuid.UUID) -> None:
        draw_dataset(self.worker.database, dataset_id)

    def _push(self, dataset_id: uuid.UUID) -> None:
        self._while_owed(outbox.PUSH, dataset_id, self._push_noting_why_not)

    def _push_noting_why_not(self, dataset_id: uuid.UUID) -> None:
        database, settings = self.worker.database, self.worker.settings
        try:
            push_dataset(database, self._label_studio(), settings, dataset_id)
        except HeldBack:
            raise
        except FactoryError as error:
            said = error.detail
            database.retrying(lambda s: pushes.note_error(s, dataset_id, said))
            raise

    def _reconcile(self, dataset_id: uuid.UUID) -> None:
        self._while_owed(outbox.RECONCILE, dataset_id, self._reconcile_once)

    def _reconcile_once(self, dataset_id: uuid.UUID) -> None:
        database, settings = self.worker.database, self.worker.settings
        reconcile_dataset(database, self._label_studio(), settings, dataset_id)

    def _handle_events(self, event_id: uuid.UUID) -> None:
        """All that wait, unless someone is at it already.

        Who holds the turn looks again after giving it back, so that no event is left behind.
        """
        if self._is_handled(event_id):
            return
        while not self.worker.shutdown.is_set() and self._any_event():
            with self.worker.database.only_one(outbox.HANDLE_EVENT) as mine:
                if not mine:
                    return
                handle_events(self.worker.database, self._label_studio())

    def _for_label_studio(
        self, task: str, key: uuid.UUID, work: Callable[[uuid.UUID], None]
    ) -> None:
        """Work that needs Label Studio. While that is away, or none is set, what is owed waits
        quietly; as soon as it answers again, all of it is due."""
        settings = self.worker.settings
        with self._reported(task, key=str(key)):
            if not is_set(settings):
                self._postpone(task, key, settings.reconcile_seconds)
                return
            try:
                work(key)
            except Unavailable:
                self._postpone(task, key, self._seconds_left())
                raise

    def _postpone(self, task: str, key: uuid.UUID, seconds: float) -> None:
        self.worker.database.retrying(lambda s: outbox.postpone(s, task, key, seconds))

    def _seconds_left(self) -> float:
        first = self.worker.settings.label_studio_retry_seconds
        return self.worker.database.retrying(
            lambda s: circuits.seconds_left(s, LABEL_STUDIO, first)
        )

    def _while_owed(self, task: str, key: uuid.UUID, work: Callable[[uuid.UUID], None]) -> None:
        """Work until nothing more is owed, unless another worker is at it already.

        The turn is given back before looking again: what was owed meanwhile is seen either
        here or by the worker that its message wakes.
        """
        database = self.worker.database
        while not self.worker.shutdown.is_set() and self._owed(task, key) is not None:
            with database.only_one(f"{task}/{key}") as mine:
                version = self._owed(task, key)
                if not mine or version is None:
                    return
                work(key)
                self._settle(task, key, version)

    def _settle(self, task: str, key: uuid.UUID, version: int) -> None:
        self.worker.database.retrying(lambda s: outbox.settle(s, task, key, version))

    def _owed(self, task: str, key: uuid.UUID) -> int | None:
        return self.worker.database.retrying(lambda s: outbox.version(s, task, key))

    def _is_handled(self, event_id: uuid.UUID) -> bool:
        return self.worker.database.retrying(lambda s: reviews.is_handled(s, event_id))

    def _any_event(self) -> bool:
        return bool(self.worker.database.retrying(lambda s: reviews.unhandled(s, 1)))

    @contextmanager
    def _reported(self, task: str, **about: str) -> Iterator[None]:
        """Log an expected failure; its wake-up stays owed and is sent again."""
        try:
            yield
        except HeldBack as error:
            logger.debug("task.waits", task=task, detail=error.detail, **about)
        except FactoryError as error:
            kind = type(error).__name__
            logger.warning("task.failed", task=task, error=kind, detail=error.detail, **about)

    def _embedding_model(self) -> Embedder:
        with self._loading:
            self._embedder = self._embedder or embedding.load(self.worker.settings)
            return self._embedder

    def _label_studio(self) -> Client:
        with self._loading:
            if self._client is None:
                settings = self.worker.settings
                self._client = connect(settings, breaker.guard(self.worker.database, settings))
            return self._client


worker = process.start(Evaluator.kind)
worker.before_start(embedding.check)
worker.watch_consumption(
    outbox.MEASURE,
    outbox.EMBED,
    outbox.DRAW_MAP,
    outbox.PUSH,
    outbox.HANDLE_EVENT,
    outbox.RECONCILE,
)
app = worker.app
cpu = CpuWorker(worker)


@worker.task(outbox.EMBED)
def embed(dataset_id: str) -> None:
    """Embed what is new in a dataset."""
    cpu.embed(uuid.UUID(dataset_id))


@worker.shard_task(outbox.MEASURE)
def run_shard(shard_id: str) -> None:
    """Measure samples."""
    cpu.run_shard(uuid.UUID(shard_id))


@worker.task(outbox.DRAW_MAP)
def draw_map(dataset_id: str) -> None:
    """Draw where a dataset's samples lie."""
    cpu.draw_map(uuid.UUID(dataset_id))


@worker.task(outbox.PUSH)
def push(dataset_id: str) -> None:
    """Send what waits in a dataset to Label Studio."""
    cpu.push(uuid.UUID(dataset_id))


@worker.task(outbox.HANDLE_EVENT)
def handle_event(event_id: str) -> None:
    """Fetch again what Label Studio's events are about."""
    cpu.handle_event(uuid.UUID(event_id))


@worker.task(outbox.RECONCILE)
def reconcile(dataset_id: str) -> None:
    """Compare a dataset's reviews with Label Studio."""
    cpu.reconcile(uuid.UUID(dataset_id))


@worker.task("workers.cpu.simulate_reviews")
def simulate_reviews(dataset_id: str) -> None:
    """Let the demo's simulated reviewer review a dataset."""
    cpu.simulate_reviews(uuid.UUID(dataset_id))
