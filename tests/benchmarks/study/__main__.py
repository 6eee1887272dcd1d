"""Run the study, or go on with one that was stopped. Use: `make study`.

What was trained and made is kept in FACTORY_HOME/study and not made again; tables and figures are
written there after every cell.
"""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

from rich.console import Console

from factory import settings
from tests.benchmarks.study.beds import Models
from tests.benchmarks.study.report import short, write_into
from tests.benchmarks.study.run import PARTS, Run, quiet
from tests.benchmarks.study.store import Store
from tests.benchmarks.study.study import FULL, QUICK, QUICK_BASE, Study
from tests.benchmarks.testbed import TASKS

README = Path(__file__).parents[3] / "README.md"


def main() -> None:
    wanted = _arguments()
    quiet()
    folder = wanted.folder or settings.load().home / "study"
    folder = folder / "quick" if wanted.quick else folder
    if wanted.readme:
        write_into(README, short(json.loads((folder / "study.json").read_text())))
        return
    console = Console(stderr=True)
    say = partial(console.print, style="dim", highlight=False)
    Run(_study(wanted, folder), folder, say, wanted.processes).run(wanted.parts)
    console.print(f"tables: {folder / 'study.md'}")


def _study(wanted: argparse.Namespace, folder: Path) -> Study:
    store = Store.lasting(folder / "made", wanted.minutes)
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
    parser.add_argument("--processes", type=int, default=2, help="that work side by side")
    parser.add_argument("--folder", type=Path, help="default: FACTORY_HOME/study")
    parser.add_argument("--readme", action="store_true", help="only put the tables in the README")
    return parser.parse_args()


if __name__ == "__main__":
    main()
