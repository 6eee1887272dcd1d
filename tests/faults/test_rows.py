"""A share of `make test-faults`: kinds of harm, each once, on one running factory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .plant import Plant, open_plant
from .rows import ROWS, Row
from .run import run_row, table

SHARE = (  # the others are like one of these, or need what a machine may not have
    "kill -9 of a worker, in its commit",
    "kill -9 of a worker, all stored, not told",
    "kill -9 of a worker's child",
    "kill -9 of the API and beat, before publishing",
    "kill -9 of Redis",
    "kill -9 of Postgres",
    "a worker frozen for two leases",
    "connections to the database cut",
)


@pytest.fixture(scope="module")
def plant(service_folder: Path) -> Iterator[Plant]:
    folder = service_folder / "faults"
    folder.mkdir()
    with open_plant(folder) as plant:
        yield plant


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.name in SHARE], ids=lambda row: row.name
)
def test_nothing_is_lost_or_doubled(plant: Plant, row: Row) -> None:
    result = run_row(plant, row, times=1, seed=7)
    assert result.stored == result.planned > 0
    assert result.is_clean, table([result])
