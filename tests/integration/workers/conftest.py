"""A tiny random model pair on disk, a real database, and a factory floor in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from factory.db import Database
from factory.settings import Settings

from .celery_plant import Plant, kill_group, start
from .factory_floor import Floor, open_floor, save_pair


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pair_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    save_pair(folder)
    return folder


@pytest.fixture(scope="module")
def settings(
    postgres_url: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    return Settings(
        home=tmp_path_factory.mktemp("home"),
        database_url=postgres_url,
        broker_url=redis_url,
        device="cpu",
        slots=4,
        commit_batch=3,
        heartbeat_seconds=0.1,
        lease_seconds=30,
    )


@pytest.fixture(scope="module")
def database(settings: Settings) -> Iterator[Database]:
    database = Database(settings.database_url)
    yield database
    database.close()


@pytest.fixture
def floor(settings: Settings, database: Database, pair_folder: Path) -> Floor:
    return open_floor(settings, database, pair_folder)


@pytest.fixture(scope="module")
def plant(
    settings: Settings,
    database: Database,
    pair_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Plant]:
    quick = {"lease_seconds": 8, "heartbeat_seconds": 0.5, "outbox_retry_seconds": 0.5}
    quick["stop_seconds"] = 4
    floor = open_floor(settings.model_copy(update=quick), database, pair_folder)
    plant = Plant(floor, tmp_path_factory.mktemp("logs"))
    beat = start(floor, plant.folder, "beat", "factory", "beat")
    yield plant
    plant.close()
    kill_group(beat)
