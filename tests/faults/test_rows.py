"""A share of `make test-faults`: kinds of harm, each once, on one running factory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .plant import Plant, open_plant
from .rows import ROWS, Row
from .run import run_row, table

ELSEWHERE = (
    "a worker told to stop",
    "two beats, either killed",
)  # tested elsewhere, or like another


@pytest.fixture(scope="module")
def plant(service_folder: Path) -> Iterator[Plant]:
    folder = service_folder / "faults"
    folder.mkdir()
    with open_plant(folder) as plant:
        yield plant


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.name not in ELSEWHERE], ids=lambda row: row.name
)
def test_nothing_is_lost_or_doubled(plant: Plant, row: Row) -> None:
    result = run_row(plant, row, times=1, seed=7)
    assert result.stored == result.planned > 0
    assert result.is_clean, table([result])
