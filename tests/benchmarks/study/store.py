"""What was made is kept by its recipe, so that a study that was stopped goes on where it was."""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class OutOfTime(Exception):
    """The minutes asked for are over; what was made is kept."""


@dataclass
class Store:
    """A folder of JSON files, one per thing made. No new thing is begun after `minutes`."""

    folder: Path
    minutes: float = float("inf")
    _start: float = field(default_factory=time.monotonic)

    def check(self) -> None:
        """Raise OutOfTime when the minutes are over."""
        if time.monotonic() - self._start > 60 * self.minutes:
            raise OutOfTime

    def get(self, recipe: Any, make: Callable[[], Any]) -> Any:
        """What `make` returned for this recipe, now or before: JSON values.

        Raises OutOfTime instead of making it when the minutes are over.
        """
        name = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:32]
        path = self.folder / f"{name}.json"
        if path.exists():
            return json.loads(path.read_text())["made"]
        self.check()
        made = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps({"recipe": recipe, "made": made}))
        draft.replace(path)
        return made
