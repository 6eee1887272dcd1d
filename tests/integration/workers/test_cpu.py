"""The CPU worker's tasks: done when owed, settled when done, owed while they fail."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from factory import datasets, jobs, maps, outbox, pushes, reviews
from factory.db import Database
from factory.dispatch import celery_app
from factory.settings import Settings
from factory.spec import EvaluateSpec
from factory.tables import Dataset, Outbox, Push, Sample, WebhookEvent
from workers.parent import ParentDatabase
from workers.process import Worker

BROKER = "redis://127.0.0.1:1/0"  # never asked here


@pytest.fixture(scope="module")
def cpu(postgres_url: str) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as environment:  # Celery's entry reads it when imported
        environment.setenv("FACTORY_DATABASE_URL", postgres_url)
        environment.setenv("FACTORY_BROKER_URL", BROKER)
        from workers.cpu import CpuWorker
    settings = Settings(database_url=postgres_url, broker_url=BROKER, label_studio_url="")
    database = Database(postgres_url)
    yield CpuWorker(
        Worker("cpu", settings, database, ParentDatabase(postgres_url), celery_app(settings))
    )
    database.close()


@pytest.fixture
def database(cpu: Any) -> Database:
    database: Database = cpu.worker.database
    return database


@pytest.fixture
def dataset(database: Database) -> uuid.UUID:
    with database.transaction() as session:
        made = datasets.create(session, f"d-{uuid.uuid4().hex}", "hypothesis:")
        add(session, made)
        return made.id


def add(session: Any, dataset: Any) -> None:
    line = json.dumps({"text": f"rain raises the yield {uuid.uuid4()}"})
    datasets.import_lines(session, dataset, [line.encode()])


def embedded(database: Database, dataset: uuid.UUID) -> int:
    with database.transaction() as session:
        done = select(func.count()).where(
            Sample.dataset_id == dataset, Sample.embedding.is_not(None)
        )
        return session.scalar(done) or 0


def owed(database: Database, task: str, key: uuid.UUID) -> bool:
    with database.transaction() as session:
        return outbox.version(session, task, key) is not None


def test_what_is_owed_is_done_and_settled(cpu: Any, database: Database, dataset: uuid.UUID) -> None:
    cpu.embed(dataset)
    assert embedded(database, dataset) == 1
    assert not owed(database, outbox.EMBED, dataset)


def test_a_map_is_drawn_when_it_is_owed(cpu: Any, database: Database, dataset: uuid.UUID) -> None:
    cpu.embed(dataset)
    with database.transaction() as session:
        maps.ask(session, dataset)
    cpu.draw_map(dataset)
    assert not owed(database, outbox.DRAW_MAP, dataset)
    with database.transaction() as session:
        assert len(maps.points(session, dataset)) == 1


def test_an_evaluation_is_worked_on(cpu: Any, database: Database, dataset: uuid.UUID) -> None:
    with database.transaction() as session:
        found = session.get_one(Dataset, dataset)
        spec = EvaluateSpec(kind="evaluate", dataset=found.name)
        job, _ = jobs.submit(session, spec, found, None, request={})
        (shard,) = jobs.shards_of(session, job.id)
    cpu.run_shard(shard.id)
    with database.transaction() as session:
        assert jobs.get(session, job.id).state == "failed", "there is no sample to measure"
    cpu.run_shard(shard.id)
    assert not owed(database, outbox.MEASURE, shard.id)


def test_a_repeated_message_does_nothing(cpu: Any, database: Database, dataset: uuid.UUID) -> None:
    with database.transaction() as session:
        outbox.settle(session, outbox.EMBED, dataset)
    cpu.embed(dataset)
    assert embedded(database, dataset) == 0


def test_what_is_owed_anew_meanwhile_is_done_too(
    cpu: Any, database: Database, dataset: uuid.UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules[type(cpu).__module__]
    real = module.embed_dataset

    def late(*arguments: Any) -> int:
        done = real(*arguments)
        if embedded(database, dataset) == 1:
            with database.transaction() as session:
                add(session, session.get_one(datasets.Dataset, dataset))
        return done

    monkeypatch.setattr(module, "embed_dataset", late)
    cpu.embed(dataset)
    assert embedded(database, dataset) == 2
    assert not owed(database, outbox.EMBED, dataset)


def test_two_workers_do_not_do_the_same_work(
    cpu: Any, database: Database, dataset: uuid.UUID
) -> None:
    with database.only_one(f"{outbox.EMBED}/{dataset}") as mine:
        assert mine
        cpu.embed(dataset)
        assert embedded(database, dataset) == 0
    assert owed(database, outbox.EMBED, dataset)
    cpu.embed(dataset)
    assert embedded(database, dataset) == 1


def test_a_push_without_a_label_studio_waits_quietly(
    cpu: Any, database: Database, dataset: uuid.UUID, capsys: pytest.CaptureFixture[str]
) -> None:
    with database.transaction() as session:
        sample = session.scalars(select(Sample.id).where(Sample.dataset_id == dataset)).one()
        session.add(Push(sample_id=sample, dataset_id=dataset))
        outbox.owe(session, outbox.PUSH, dataset)
    cpu.push(dataset)
    with database.transaction() as session:
        push = pushes.of_sample(session, sample)
        owed = session.get_one(Outbox, (outbox.PUSH, dataset))
    assert push is not None
    assert push.error is None
    assert owed.sends == 0
    assert owed.due_at - datetime.now(UTC) > timedelta(seconds=30)
    assert "task.failed" not in capsys.readouterr().out


def test_an_event_that_was_handled_is_not_handled_again(cpu: Any, database: Database) -> None:
    event = {"action": "ANNOTATION_CREATED", "annotation": {"id": 1}, "project": {"id": 1}}
    with database.transaction() as session:
        reviews.record_event(session, event)
        event_id = session.scalars(select(WebhookEvent.id)).one()
    cpu.handle_event(event_id)  # no Label Studio: it waits
    assert owed(database, outbox.HANDLE_EVENT, event_id)
    with database.transaction() as session:
        reviews.mark_handled(session, event_id)
    cpu.handle_event(event_id)
    assert not owed(database, outbox.HANDLE_EVENT, event_id)


def test_a_worker_whose_embedding_model_does_not_fit_ends_with_the_reason(
    postgres_url: str,
) -> None:
    environment = {
        **os.environ,
        "FACTORY_DATABASE_URL": postgres_url,
        "FACTORY_BROKER_URL": BROKER,
        "FACTORY_EMBEDDING_MODEL": "/nowhere",
    }
    argv = (sys.executable, "-m", "celery", "-A", "workers.cpu", "--quiet", "worker", "-Q", "cpu")
    ended = subprocess.run(
        argv, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 1
    assert "FACTORY_EMBEDDING_MODEL: /nowhere cannot be used: it is not a folder" in ended.stderr
