"""What a part of the study is: cells that can be made in any order, in any process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.study.study import Study

Cell = tuple[str, ...]
Row = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """cells: what it consists of, the first first. rows: makes one; raises OutOfTime."""

    cells: Callable[[Study], Sequence[Cell]]
    rows: Callable[[Study, Cell], list[Row]]
