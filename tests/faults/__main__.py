"""`make test-faults`: every row in full, on one plant for each thing that rows stand on, those of
the way to Label Studio on a floor of their own. A row that ended well is kept in a file of its own,
so that a run that was interrupted goes on where it was, and several may run side by side.

    python -m tests.faults [--seed 1] [--only TEXT …] [--on KIND] [--times N] [--soak MINUTES]
        [--afresh]
"""

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from .plant import KINDS, LeftBehind, open_plant
from .review_floor import open_floor, own_services
from .review_rows import ROWS as REVIEW_ROWS
from .review_rows import ReviewRow
from .review_rows import run_row as run_review_row
from .rows import ROWS, Row, soak, why_not
from .run import Result, run_row, table

AnyRow = TypeVar("AnyRow", Row, ReviewRow)

KEPT = Path("build/faults")


def main() -> int:
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("The plant is closed."))
    is_named = lambda row: any(part in row.name for part in arguments.only)  # noqa: E731
    named = [row for row in ROWS if is_named(row) and arguments.on in ("", row.on)]
    wanted = [soak(arguments.soak)] if arguments.soak else named
    apart = arguments.soak or arguments.on
    reviewed = [] if apart else [row for row in REVIEW_ROWS if is_named(row)]
    if arguments.afresh:
        for row in (*wanted, *reviewed):
            _file(row).unlink(missing_ok=True)
    sound = [_run(kind, wanted, arguments.times, arguments.seed) for kind in KINDS]
    _run_reviewed(reviewed, arguments.times, arguments.seed)
    every = (_kept(row, arguments.seed) for row in (*wanted, *reviewed))
    results = [result for result in every if result]
    _say(table(results))
    return 0 if all(sound) and all(result.is_clean for result in results) else 1


def _run(kind: str, rows: Sequence[Row], times: int, seed: int) -> bool:
    """Do what is left of these rows on a plant of this kind; returns whether the plant ended as
    it should."""
    left = [row for row in rows if row.on == kind and not _is_done(row, seed)]
    left = [row for row in left if not _says_why_not(row)]
    if not left:
        return True
    try:
        with (
            tempfile.TemporaryDirectory(prefix="factory-faults-") as folder,
            open_plant(Path(folder), kind) as plant,
        ):
            for row in left:
                _do(partial(run_row, plant), row, times, seed)
    except LeftBehind as error:
        _say(f"The plant on {kind} left behind: {error}")
        return False
    _say(f"The plant on {kind} is stopped: no process, connection or socket of it is left.")
    return True


def _run_reviewed(rows: Sequence[ReviewRow], times: int, seed: int) -> None:
    """Do what is left of the rows of the way to Label Studio."""
    left = [row for row in rows if not _is_done(row, seed)]
    if not left:
        return
    with (
        tempfile.TemporaryDirectory(prefix="factory-faults-") as folder,
        own_services(Path(folder)) as services,
        open_floor(Path(folder), *services) as floor,
    ):
        for row in left:
            _do(partial(run_review_row, floor), row, times, seed)


def _do(run: Callable[[AnyRow, int, int], Result], row: AnyRow, times: int, seed: int) -> None:
    started = time.monotonic()
    result = run(row, times or row.times, seed)
    took = time.monotonic() - started
    result = replace(result, seconds=round(took), load=round(os.getloadavg()[0], 1))
    KEPT.mkdir(parents=True, exist_ok=True)
    _file(row).write_text(json.dumps(asdict(result)))
    how = "well" if result.is_clean else f"BROKEN {result.wrong} {result.leaks}"
    worst = f"takeover {result.worst_takeover} s, recovery {result.worst_recovery} s at worst"
    _say(f"{row.name}: {how}, {took:.0f} s; {worst}")


def _says_why_not(row: Row) -> bool:
    reason = why_not(row)
    if reason:
        _say(f"NOT RUN, {row.name}: {reason}")
    return bool(reason)


def _file(row: Row | ReviewRow) -> Path:
    return KEPT / f"{re.sub('[^a-z0-9]+', '-', row.name.lower())}.json"


def _kept(row: Row | ReviewRow, seed: int) -> Result | None:
    """What this row came to under this seed, if it was run."""
    if not _file(row).exists():
        return None
    kept = json.loads(_file(row).read_text())
    told = {name: tuple(kept[name]) for name in ("wrong", "leaks")}
    result = Result(**{**kept, **told})
    return result if result.seed == seed else None


def _is_done(row: Row | ReviewRow, seed: int) -> bool:
    result = _kept(row, seed)
    return result is not None and result.is_clean


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[""], help="rows whose name holds such a text")
    parser.add_argument("--on", default="", choices=KINDS, help="only rows on such a plant")
    parser.add_argument("--times", type=int, default=0, help="faults a row, instead of its own")
    parser.add_argument("--soak", type=int, default=0, help="minutes of any kills, five a minute")
    parser.add_argument("--afresh", action="store_true", help="forget the rows that are done")
    return parser.parse_args()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
