"""Model pairs in memory: loaded once, their files digested, the last one used kept."""

import gc
import hashlib
import platform
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from huggingface_hub import snapshot_download
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from factory import __version__, log
from factory.db import Database
from factory.errors import ModelError
from factory.models import Digests, record_digests
from factory.settings import Settings
from factory.tables import ModelPair as PairRow
from workers.decoding import DocumentCache, ModelPair

LIBRARIES = ("torch", "transformers", "peft", "safetensors", "numpy")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

logger = log.get(__name__)


@dataclass(frozen=True, eq=False)
class LoadedPair:
    """A pair that is ready to decode, with its tokenizer. base, expert: the folders that it was
    loaded from."""

    name: str
    base: Path
    expert: Path
    models: ModelPair
    tokenizer: PreTrainedTokenizerBase
    digests: Digests
    documents: DocumentCache = field(default_factory=DocumentCache)

    @cached_property
    def pieces(self) -> list[str]:
        """The text that each token adds to a text, by id: with the space that it carries, which
        many tokenizers leave out at the start of a text."""
        vocabulary = range(self.models.vocab_size)
        anchor = next((i for i in vocabulary if self._decode([[i]])[0].isalnum()), None)
        if anchor is None:
            return self._decode([[i] for i in vocabulary])
        start = self._decode([[anchor]])[0]
        return [
            both.removeprefix(start) for both in self._decode([[anchor, i] for i in vocabulary])
        ]

    def _decode(self, rows: list[list[int]]) -> list[str]:
        return list(self.tokenizer.batch_decode(rows, clean_up_tokenization_spaces=False))

    def free_memory(self) -> None:
        """Give back what a run that came to an end had taken from the device."""
        self.models.idle.clear()
        self.documents.clear()
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()

    def environment(self, slots: int) -> dict[str, Any]:
        """What samples of this pair are made on; part of their provenance."""
        return {
            "slots": slots,
            "device": _device_name(self.models.device),
            "dtype": str(self.models.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "software": software(),
        }


@dataclass
class PairCache:
    """Loads pairs where the settings say, and keeps the last one."""

    settings: Settings
    database: Database
    _last: LoadedPair | None = field(default=None, init=False)

    def load(self, row: PairRow) -> LoadedPair:
        """The pair of this row, ready to decode and made of the files that it was first made
        of. Raises ModelError saying what and where."""
        if self._last is None or self._last.name != row.name:
            self._last = None  # its memory is free before the next pair takes some
            pair = self._load(row)
            self.database.retrying(lambda s: record_digests(s, row.id, pair.digests))
            self._last = pair
        return self._last

    def free_memory(self) -> None:
        """Give back what a run that came to an end had taken from the device."""
        if self._last is not None:
            self._last.free_memory()

    def _load(self, row: PairRow) -> LoadedPair:
        base, expert = (_folder(ref, row.revision) for ref in (row.base, row.expert))
        device = device_of(self.settings)
        dtype, graphs = _dtype(self.settings, device), self.settings.cuda_graphs
        models = ModelPair.load(str(base), str(expert), device, dtype, graphs=graphs)
        logger.info("pair.loaded", pair=row.name, device=device, kind=models.kind)
        digests = Digests(_weights_digest(base), _weights_digest(expert), _tokenizer_digest(base))
        return LoadedPair(row.name, base, expert, models, _tokenizer(base), digests)


def _folder(ref: str, revision: str | None) -> Path:
    """A local folder; a hub id is fetched at its pinned commit, safetensors only."""
    if Path(ref).is_absolute():
        return Path(ref)
    patterns = ["*.safetensors", "*.json", "*.model", "*.txt"]
    try:
        return Path(snapshot_download(ref, revision=revision, allow_patterns=patterns))
    except Exception as error:
        raise ModelError(f"'{ref}' at {revision} cannot be fetched: {error}") from error


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    try:
        loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:
        raise ModelError(f"The tokenizer in {folder} cannot be loaded: {error}") from error
    return loaded


def device_of(settings: Settings) -> str:
    """Where models run: the first GPU if there is one, else the CPU, and says which."""
    if settings.device != "auto":
        return settings.device
    if torch.cuda.is_available():
        return "cuda:0"
    logger.warning("gpu.none", detail="No GPU is visible: models run on the CPU.")
    return "cpu"


def free_bytes(device: torch.device) -> int:
    """Memory that rows on this device can take: free, or reserved by this process and unused."""
    if device.type != "cuda":
        return int(psutil.virtual_memory().available)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused


def _dtype(settings: Settings, device: str) -> str:
    if settings.dtype != "auto":
        return settings.dtype
    return "bfloat16" if device.startswith("cuda") else "float32"


def _weights_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a model's weights and configuration."""
    names = ("config.json", "adapter_config.json")
    files = [*folder.glob("*.safetensors"), *(folder / n for n in names if (folder / n).is_file())]
    return _digest(files)


def _tokenizer_digest(folder: Path) -> str:
    return _digest([folder / name for name in TOKENIZER_FILES if (folder / name).is_file()])


def _digest(files: list[Path]) -> str:
    total = hashlib.sha256()
    for file in sorted(files, key=lambda path: path.name):
        with file.open("rb") as content:
            part = hashlib.file_digest(content, "sha256").hexdigest()
        total.update(f"{file.name} {part}\n".encode())
    return total.hexdigest()


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} {torch.cuda.get_device_name(device)}"
    return f"{device} {platform.machine()}"


def software() -> dict[str, str]:
    """The versions that decide what comes out."""
    return {
        "factory": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }
