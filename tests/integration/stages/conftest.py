"""A real database, and worlds in it."""

from collections.abc import Callable, Iterator

import pytest

from factory.db import Database

from .world import World, world_in


@pytest.fixture(scope="module")
def database(postgres_url: str) -> Iterator[Database]:
    database = Database(postgres_url, pool_size=16)
    yield database
    database.close()


@pytest.fixture
def new_world(database: Database) -> Callable[[], World]:
    def make() -> World:
        return world_in(database)

    return make


@pytest.fixture
def world(database: Database) -> World:
    return world_in(database)
