"""`make test-faults`: every row in full, those of the way to Label Studio on a floor of their own,
all others on one plant. Ended rows are kept in a file, so that a run
that was interrupted goes on where it was.

    python -m tests.faults [--seed 1] [--only TEXT] [--times N] [--soak MINUTES] [--afresh]
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TypeVar

from .plant import open_plant
from .review_floor import open_floor, own_services
from .review_rows import ROWS as REVIEW_ROWS
from .review_rows import ReviewRow
from .review_rows import run_row as run_review_row
from .rows import ROWS, Row, soak
from .run import Result, run_row, table

AnyRow = TypeVar("AnyRow", Row, ReviewRow)

KEPT = Path("build/faults.json")


def main() -> int:
    arguments = _arguments()
    soaked = Row(f"a soak of {arguments.soak} minutes", soak, 5 * arguments.soak)
    wanted = [soaked] if arguments.soak else [row for row in ROWS if arguments.only in row.name]
    reviewed = [] if arguments.soak else [r for r in REVIEW_ROWS if arguments.only in r.name]
    done = {} if arguments.afresh else _kept(arguments.seed)
    left = [row for row in wanted if row.name not in done]
    if left:
        with (
            tempfile.TemporaryDirectory(prefix="factory-faults-") as folder,
            open_plant(Path(folder)) as plant,
        ):
            _run(partial(run_row, plant), left, arguments.times, arguments.seed, done)
    left_reviewed = [row for row in reviewed if row.name not in done]
    if left_reviewed:
        with (
            tempfile.TemporaryDirectory(prefix="factory-faults-") as folder,
            own_services(Path(folder)) as services,
            open_floor(Path(folder), *services) as floor,
        ):
            harm = partial(run_review_row, floor)
            _run(harm, left_reviewed, arguments.times, arguments.seed, done)
    results = [done[row.name] for row in (*wanted, *reviewed)]
    _say(table(results))
    return 0 if all(result.is_clean for result in results) else 1


def _run(
    run: Callable[[AnyRow, int, int], Result],
    rows: Sequence[AnyRow],
    times: int,
    seed: int,
    done: dict[str, Result],
) -> None:
    """Run these rows and add them to what is done, there and in the file."""
    for row in rows:
        started = time.monotonic()
        result = done[row.name] = run(row, times or row.times, seed)
        KEPT.parent.mkdir(exist_ok=True)
        KEPT.write_text(json.dumps([asdict(each) for each in done.values()]))
        how = "well" if result.is_clean else "BROKEN"
        _say(f"{row.name}: {how}, {time.monotonic() - started:.0f} s")


def _kept(seed: int) -> dict[str, Result]:
    """The rows that ended well before, under this seed."""
    if not KEPT.exists():
        return {}
    kept = [
        Result(**{**each, "wrong": tuple(each["wrong"])}) for each in json.loads(KEPT.read_text())
    ]
    return {result.row: result for result in kept if result.seed == seed and result.is_clean}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--times", type=int, default=0, help="faults a row, instead of its own")
    parser.add_argument("--soak", type=int, default=0, help="minutes of any harm, five a minute")
    parser.add_argument("--afresh", action="store_true", help="forget the rows that are done")
    return parser.parse_args()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
