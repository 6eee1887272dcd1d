"""What was made is kept by its recipe, so that a study that was stopped goes on where it was."""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class OutOfTime(Exception):
    """The minutes asked for are over; what was made is kept."""


@dataclass(frozen=True)
class Store:
    """A folder of JSON files, one per thing made. No new thing is begun after `until`, in seconds
    since the epoch."""

    folder: Path
    until: float = math.inf

    @classmethod
    def lasting(cls, folder: Path, minutes: float) -> "Store":
        """A store that begins nothing new after so many minutes from now."""
        return cls(folder, time.time() + 60 * minutes)

    def check(self) -> None:
        """Raise OutOfTime when the time is over."""
        if time.time() >= self.until:
            raise OutOfTime

    def get(self, recipe: Any, make: Callable[[], Any]) -> Any:
        """What `make` returned for this recipe, now or before: JSON values.

        Raises OutOfTime instead of making it when the time is over.
        """
        name = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:32]
        path = self.folder / f"{name}.json"
        if path.exists():
            return json.loads(path.read_text())["made"]
        self.check()
        made = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}.draft")
        draft.write_text(json.dumps({"recipe": recipe, "made": made}))
        draft.replace(path)
        return made
