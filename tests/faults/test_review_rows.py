"""A share of `make test-faults`: what may happen on the way to Label Studio and back, each once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from factory.local import label_studio

from .review_floor import Floor, open_floor
from .review_rows import ROWS, ReviewRow, run_row
from .run import table

NOT_HERE = (  # slower ones, and what tests/acceptance and tests/integration do too
    "kill -9 of the CPU worker in an import",
    "Label Studio slow",
    "Label Studio answers 5xx",
    "answers torn in the middle",
    "a task deleted there",
    "an annotation deleted there",
    "events forged and too long",
)
BOUNDED = [row for row in ROWS if row.name not in NOT_HERE]


@pytest.fixture(scope="module")
def floor(
    service_folder: Path,
    label_studio_server: label_studio.Server,
    postgres_url: str,
    redis_url: str,
) -> Iterator[Floor]:
    folder = service_folder / "review-floor"
    folder.mkdir()
    with open_floor(folder, label_studio_server, postgres_url, redis_url) as floor:
        yield floor


@pytest.mark.parametrize("row", BOUNDED, ids=lambda row: row.name)
def test_label_studio_and_we_say_the_same_in_the_end(floor: Floor, row: ReviewRow) -> None:
    result = run_row(floor, row, times=1, seed=7)
    assert result.stored == result.planned > 0
    assert result.is_clean, table([result])
