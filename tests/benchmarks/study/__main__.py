"""Run the study, or go on with one that was stopped. Use: `make study`.

What was trained and made is kept in FACTORY_HOME/study and not made again; tables are written to
study.json and study.md there after every part.
"""

import argparse
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers.utils import logging as transformers_logging

from factory import settings
from tests.benchmarks.study.beds import Models
from tests.benchmarks.study.compare import compare
from tests.benchmarks.study.loop import loop
from tests.benchmarks.study.rejections import levers, three_rejections
from tests.benchmarks.study.report import Result, markdown, short, write_into
from tests.benchmarks.study.store import OutOfTime, Store
from tests.benchmarks.study.study import FULL, QUICK, QUICK_BASE, Study
from tests.benchmarks.study.uplift import uplift
from tests.benchmarks.testbed import TASKS

PARTS: dict[str, Callable[[Study], Iterator[dict[str, Any]]]] = {
    "context": uplift,
    "three": three_rejections,
    "levers": levers,
    "rules": compare,
    "loop": loop,
}
README = Path(__file__).parents[3] / "README.md"


def main() -> None:
    wanted = _arguments()
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    logging.captureWarnings(True)
    folder = wanted.folder or settings.load().home / "study"
    folder = folder / "quick" if wanted.quick else folder
    out = folder / "study.json"
    if not wanted.readme:
        _run(_study(wanted, folder), wanted.parts, out)
        return
    write_into(README, short(json.loads(out.read_text())))


def _run(study: Study, parts: list[str], out: Path) -> None:
    """Make the parts asked for, as far as time allows; the others stay as they were."""
    console = Console(stderr=True)
    result: Result = json.loads(out.read_text()) if out.exists() else {}
    result |= {"date": f"{datetime.now(UTC):%d %B %Y}", "sizes": asdict(study.sizes)}
    for part in PARTS:
        result.setdefault(part, [])
        result.setdefault("complete", {}).setdefault(part, False)
    for part in parts:
        rows: list[dict[str, Any]] = []
        try:
            for row in PARTS[part](study):
                rows.append(row)
                console.print(part, *(row[key] for key in list(row)[:4]), style="dim")
            result["complete"][part] = True
        except OutOfTime:
            result["complete"][part] = False
            rows += _not_reached(result[part], rows)
            console.print(f"{part}: out of time; run it again to go on")
        result[part] = rows
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1) + "\n")
        out.with_suffix(".md").write_text(markdown(result))
    console.print(f"tables: {out.with_suffix('.md')}")


def _not_reached(before: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of an earlier run that this one did not come to."""
    reached = {_identity(row) for row in rows}
    return [row for row in before if _identity(row) not in reached]


def _identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return (*(value for value in row.values() if isinstance(value, str)), row.get("eta"))


def _study(wanted: argparse.Namespace, folder: Path) -> Study:
    store = Store(folder / "made", wanted.minutes)
    if wanted.quick:
        models = Models(folder / "models", QUICK_BASE)
        return Study(models, store, QUICK, tasks=("comments",), regimes=("well fit",))
    return Study(
        Models(folder / "models"), store, replace(FULL, seeds=wanted.seeds), tasks=wanted.tasks
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--quick", action="store_true", help="one small task: does it all run?")
    parser.add_argument("--seeds", type=int, default=FULL.seeds, help="experts a figure is from")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--folder", type=Path, help="default: FACTORY_HOME/study")
    parser.add_argument("--readme", action="store_true", help="only put the tables in the README")
    return parser.parse_args()


if __name__ == "__main__":
    main()
