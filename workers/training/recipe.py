"""A finished training is known by its recipe: the same recipe again is not trained again."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FILE = "recipe.json"

Progress = Callable[[int, int, float], None]
"""Called after every step with (steps done, steps planned, loss); raising ends the training."""


@dataclass(frozen=True)
class Trained:
    """A trained model on disk.

    path          folder with safetensors weights and the tokenizer
    loss          mean training loss of the last tenth, nats a token
    heldout_loss  loss on samples kept out of training, nats a token; None if none were
    cached        it was there already
    """

    path: Path
    loss: float
    heldout_loss: float | None
    cached: bool


def finished(out: Path, recipe: Mapping[str, Any]) -> Trained | None:
    """The result of this recipe, if `out` holds it whole."""
    try:
        found = json.loads((out / _FILE).read_text())
    except (FileNotFoundError, ValueError):
        return None
    if found.get("digest") != digest(recipe):
        return None
    return Trained(out, found["loss"], found["heldout_loss"], cached=True)


@contextmanager
def publishing(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write into; it takes `out`'s place when the block ends well."""
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield draft
        draft.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        os.replace(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write(draft: Path, recipe: Mapping[str, Any], loss: float, heldout: float | None) -> None:
    """Note in `draft` what was trained and how it went."""
    content = {"digest": digest(recipe), "recipe": recipe, "loss": loss, "heldout_loss": heldout}
    (draft / _FILE).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def digest(recipe: Mapping[str, Any]) -> str:
    """SHA-256 of the recipe's canonical JSON."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
