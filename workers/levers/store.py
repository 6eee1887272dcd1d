"""What acts, by its digest, in FACTORY_HOME/models/levers: written once, never changed."""

import hashlib
import os
from pathlib import Path

from safetensors.torch import load, save
from torch import Tensor

from factory.errors import ModelError
from factory.ids import new_id
from factory.settings import Settings

Tensors = dict[str, Tensor]


def keep(settings: Settings, tensors: Tensors) -> str:
    """Store tensors under the SHA-256 of their safetensors file, and return that."""
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    digest = hashlib.sha256(content).hexdigest()
    file = _file(settings, digest)
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(f".{new_id().hex}.part")
        with draft.open("wb") as target:
            target.write(content)
            target.flush()
            os.fsync(target.fileno())
        draft.replace(file)
    return digest


def recall(settings: Settings, digest: str) -> Tensors:
    """The tensors of this digest. Raises ModelError when they are gone or not what they were."""
    file = _file(settings, digest)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ModelError(f"lever {file} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != digest:
        raise ModelError(f"lever {file} has changed since it was used. Put the old file back.")
    return load(content)


def _file(settings: Settings, digest: str) -> Path:
    return settings.models_dir / "levers" / f"{digest}.safetensors"
