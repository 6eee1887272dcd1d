"""Model pairs: where their weights lie, and that they are safe to load.

A folder below an allowed root, or an allow-listed hub id at a pinned commit; safetensors
only. Nothing is loaded here: digests are set by the worker that loads a pair first.
"""

import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from factory.errors import Conflict, FieldError, Invalid, ModelError, NotFound
from factory.settings import Settings
from factory.tables import ModelPair


@dataclass(frozen=True)
class Digests:
    """SHA-256, in hex, of the weights of both models and of the tokenizer."""

    base: str
    expert: str
    tokenizer: str


def add(
    session: Session,
    settings: Settings,
    *,
    name: str,
    base: str,
    expert: str,
    revision: str | None = None,
) -> ModelPair:
    """Register a pair. Raises Invalid (naming the field) or Conflict."""
    errors = [
        *_problems(settings, "base", base, revision),
        *_problems(settings, "expert", expert, revision),
    ]
    if errors:
        raise Invalid("The model pair cannot be used.", errors)
    pair = ModelPair(name=name, base=_located(base), expert=_located(expert), revision=revision)
    try:
        with session.begin_nested():
            session.add(pair)
    except IntegrityError as error:
        raise Conflict(f"There is a model pair named '{name}' already.") from error
    session.refresh(pair)
    return pair


def check_base(settings: Settings, base: str) -> None:
    """Raise Invalid unless a base can be loaded from this folder."""
    errors = _problems(settings, "base", base, None)
    if errors:
        raise Invalid("The base cannot be used.", errors)


def get(session: Session, name: str) -> ModelPair:
    """The pair of this name. Raises NotFound."""
    pair = session.scalar(select(ModelPair).where(ModelPair.name == name))
    if pair is None:
        raise NotFound(f"There is no model pair named '{name}'.")
    return pair


def exists(session: Session, name: str) -> bool:
    """Whether a pair has this name."""
    return session.scalar(select(ModelPair.id).where(ModelPair.name == name)) is not None


def list_all(
    session: Session, *, before: uuid.UUID | None = None, limit: int | None = None
) -> Sequence[ModelPair]:
    """Every pair, newest first; or a page: `limit` of them, older than `before`."""
    statement = select(ModelPair).order_by(ModelPair.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(ModelPair.id < before)
    return session.scalars(statement).all()


def record_digests(session: Session, pair_id: uuid.UUID, digests: Digests) -> None:
    """Note what a pair's weights are; raise ModelError when they are not what they were."""
    pair = session.get_one(ModelPair, pair_id, populate_existing=True)
    if pair.base_sha256 is None:
        session.refresh(pair, with_for_update={"key_share": True})
    now = (digests.base, digests.expert, digests.tokenizer)
    if pair.base_sha256 is None:
        pair.base_sha256, pair.expert_sha256, pair.tokenizer_sha256 = now
    elif (pair.base_sha256, pair.expert_sha256, pair.tokenizer_sha256) != now:
        raise ModelError(
            f"The files of model pair '{pair.name}' have changed since they were first used. "
            "Put the old files back, or register the new ones as another pair."
        )


def _problems(settings: Settings, field: str, ref: str, revision: str | None) -> list[FieldError]:
    if "\x00" in ref:
        return [FieldError(field, "holds a NUL character")]
    if _is_path(ref):
        reason = _path_problem(settings, ref)
    else:
        reason = _hub_problem(settings, ref, revision)
    return [FieldError(field, reason)] if reason else []


def _path_problem(settings: Settings, ref: str) -> str | None:
    try:
        return _folder_problem(settings, Path(ref).expanduser().resolve())
    except (OSError, RuntimeError) as error:
        return f"'{ref}' cannot be read: {error}"


def _folder_problem(settings: Settings, folder: Path) -> str | None:
    if not _is_allowed(settings, folder):
        return (
            f"'{folder}' is not below an allowed folder. "
            "Set FACTORY_MODEL_ROOTS to the folders that models may be loaded from."
        )
    if not folder.is_dir():
        return f"'{folder}' is not a folder"
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        return f"'{folder}' holds neither config.json nor adapter_config.json"
    if not any(folder.glob("*.safetensors")):
        return f"'{folder}' holds no .safetensors file, the only format that is loaded"
    for file in sorted(folder.iterdir()):
        if not _is_allowed(settings, file.resolve()):
            return f"'{file}' is a link that leads out of the allowed folders"
    return None


def _is_allowed(settings: Settings, path: Path) -> bool:
    return any(path.is_relative_to(root.resolve()) for root in settings.roots)


def _hub_problem(settings: Settings, ref: str, revision: str | None) -> str | None:
    if ref not in settings.model_hub_ids:
        return (
            f"'{ref}' is neither a folder (give its whole path) nor an allowed hub id "
            "(FACTORY_MODEL_HUB_IDS)"
        )
    if revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        return "a hub id needs `revision`, the 40 hex digits of a commit"
    return None


def _is_path(ref: str) -> bool:
    return ref.startswith(("/", "~", "."))


def _located(ref: str) -> str:
    return str(Path(ref).expanduser().resolve()) if _is_path(ref) else ref
