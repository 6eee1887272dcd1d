"""Seconds that one reconcile takes: of every task, and of what changed, on a real Label Studio.

    python -m tests.benchmarks.reconcile_speed [--tasks 10000] [--changed 20]

Both bring the same number of new verdicts. The baseline is the pass over every task, which is what
every reconcile was before.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from factory.tables import Dataset
from workers.labelstudio.reconcile import reconcile_dataset

from ..faults.review_floor import Floor, Made, open_floor, own_services


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--changed", type=int, default=20)
    arguments = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="factory-reconcile-") as folder,
        own_services(Path(folder)) as services,
        open_floor(Path(folder), *services) as floor,
    ):
        made = floor.make(*(f"text {number}" for number in range(arguments.tasks)))
        floor.until("the push", made.is_pushed, 1800)
        for part in ("web", "beat", "cpu"):
            floor.kill(part)  # nobody else fetches
        whole = _reconcile(floor, made, range(arguments.changed), whole=True)
        changed = range(arguments.changed, 2 * arguments.changed)
        incremental = _reconcile(floor, made, changed, whole=False)
    sys.stdout.write(
        f"{arguments.tasks} tasks, {arguments.changed} new verdicts: every task {whole:.1f} s, "
        f"what changed {incremental:.2f} s, ratio {whole / incremental:.0f}\n"
    )
    return 0


def _reconcile(floor: Floor, made: Made, samples: range, *, whole: bool) -> float:
    newest = max(each.updated_at for page in floor.there.all_tasks(made.project) for each in page)
    for sample in samples:
        made.annotate(sample, "accept")
    with floor.database.transaction() as session:
        dataset = session.get_one(Dataset, made.id)
        dataset.reviews_until = newest
        if whole:
            dataset.reviews_compared_at = None
    start = time.monotonic()
    changed = reconcile_dataset(floor.database, floor.there, floor.settings, made.id)
    assert changed == len(samples), changed
    return time.monotonic() - start


if __name__ == "__main__":
    sys.exit(main())
