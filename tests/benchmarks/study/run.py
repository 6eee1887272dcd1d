"""Runs a study's parts on several processes, and writes down every cell when it is there."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from tests.benchmarks.study.calibration import CALIBRATION
from tests.benchmarks.study.compare import RULES_PART
from tests.benchmarks.study.figures import draw
from tests.benchmarks.study.loop import LOOP
from tests.benchmarks.study.part import Cell, Part, Row
from tests.benchmarks.study.rejections import ONCE_PART, THREE
from tests.benchmarks.study.report import Result, markdown
from tests.benchmarks.study.store import OutOfTime
from tests.benchmarks.study.study import Study
from tests.benchmarks.study.uplift import CONTEXT

PARTS: Mapping[str, Part] = {
    "context": CONTEXT,
    "three": THREE,
    "rules": RULES_PART,
    "levers": ONCE_PART,
    "loop": LOOP,
    "calibrate": CALIBRATION,
}
SEPARATOR = " · "  # of a cell's names
Wanted = tuple[str, Cell]  # a part's name and its cell
Say = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """One run. out: the folder of study.json, study.md and the figures."""

    study: Study
    out: Path
    say: Say
    processes: int = 1

    def run(self, parts: Sequence[str]) -> Result:
        """Make what is missing of these parts, as far as time allows."""
        result = self._earlier()
        wanted = [(part, cell) for part in parts for cell in PARTS[part].cells(self.study)]
        for (part, cell), rows in self._made(wanted):
            name = SEPARATOR.join(cell)
            if rows is None:
                self.say(f"{part}, {name}: no time; run it again to go on")
                continue
            self.say(f"{datetime.now(UTC):%H:%M} {part}, {name}")
            result["parts"][part][name] = rows
            self._write(result)
        return result

    def _made(self, wanted: Sequence[Wanted]) -> Iterator[tuple[Wanted, list[Row] | None]]:
        """Cells as they are ready, with their rows; None where there is no time."""
        if self.processes == 1:
            for which in wanted:
                yield which, _rows(self.study, *which)
            return
        with ProcessPoolExecutor(self.processes, get_context("spawn"), quiet) as pool:
            waiting = {pool.submit(_rows, self.study, *which): which for which in wanted}
            try:
                for future in as_completed(waiting):
                    yield waiting[future], future.result()
            finally:  # whoever stops here does not want what is still waiting
                pool.shutdown(cancel_futures=True)

    def _earlier(self) -> Result:
        """What an earlier run of this size found, or nothing yet."""
        plan = {part: [SEPARATOR.join(c) for c in PARTS[part].cells(self.study)] for part in PARTS}
        new = {"sizes": asdict(self.study.sizes), "cells": plan}
        file = self.out / "study.json"
        found = json.loads(file.read_text()) if file.exists() else {}
        same = {key: found.get(key) for key in new} == new
        return found if same else new | {"parts": {part: {} for part in PARTS}}

    def _write(self, result: Result) -> None:
        result["date"] = f"{datetime.now(UTC):%d %B %Y}"
        self.out.mkdir(parents=True, exist_ok=True)
        draft = self.out / "study.json.draft"
        draft.write_text(json.dumps(result, indent=1) + "\n")
        draft.replace(self.out / "study.json")
        (self.out / "study.md").write_text(markdown(result))
        draw(result, self.out)


def _rows(study: Study, part: str, cell: Cell) -> list[Row] | None:
    try:
        return PARTS[part].rows(study, cell)
    except OutOfTime:
        return None


def quiet() -> None:
    """One thread, and no bars or warnings of libraries."""
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    logging.captureWarnings(True)
