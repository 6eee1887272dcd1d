"""A base and an expert, loaded from local folders and checked against each other."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from factory.errors import ModelError

from . import lora
from .attention import ATTENTION
from .graphs import CudaGraphs, Record, recordable
from .inside import output_embeddings
from .layout import lay_out
from .lora import Adapter, AdapterRows
from .norms import fuse_norms

Kind = Literal["full", "lora"]
KV_LAYERS = ("full_attention", "sliding_attention")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, eq=False)
class ModelPair:
    """Two models with one vocabulary. With kind "lora" both are one module: see `rows`.

    expert, base   modules that take ids and give logits; the same one for kind "lora"
    rows           kind "lora": where to say how many rows of a forward go through which adapter
    eos_ids        any of them ends a row
    banned_ids     pad and bos (unless they end a row too): never drawn
    bos_ids        what a context may begin with
    windowed       whether a layer sees but a window of what is before a token
    max_positions  how many tokens a context and its continuation may have together
    recorder       makes what records a forward's steps; None: steps are run as they are
    idle           buffers and recorded steps that a run left to the next one of its size
    """

    expert: PreTrainedModel
    base: PreTrainedModel
    kind: Kind
    rows: AdapterRows
    vocab_size: int
    eos_ids: frozenset[int]
    banned_ids: tuple[int, ...]
    bos_ids: frozenset[int]
    windowed: bool
    max_positions: int
    recorder: Callable[[], Record] | None
    idle: dict[tuple[int, int, bool], Any] = field(default_factory=dict)

    @classmethod
    def load(
        cls,
        base: str | Path,
        expert: str | Path,
        device: str = "cpu",
        dtype: str = "float32",
        *,
        graphs: bool = True,
    ) -> "ModelPair":
        """Load from folders; `expert` is a whole model or a LoRA adapter folder.

        device is "cpu", "cuda", "cuda:N", or "auto" to spread a big model over all cards.
        graphs: record steps as CUDA graphs, where the device and the model allow it.
        Only safetensors are read, no remote code is run, nothing is downloaded. An adapter
        that is not an ordinary LoRA of linear layers is folded into a second copy of the base.
        Raises ModelError saying which folder and why.
        """
        base_folder, expert_folder = Path(base), Path(expert)
        adapter = (expert_folder / "adapter_config.json").is_file()
        check_tokenizers(base_folder, expert_folder)
        base_model = _load_model(base_folder, device, dtype)
        if adapter:
            pair = _with_adapter(base_model, base_folder, expert_folder, device, dtype)
        else:
            pair = cls.of(base_model, _load_model(expert_folder, device, dtype))
        return pair if graphs else replace(pair, recorder=None)

    @classmethod
    def of(
        cls, base: PreTrainedModel, expert: PreTrainedModel, rows: AdapterRows | None = None
    ) -> "ModelPair":
        """Pair two models in memory; `rows` when both are one module with row-wise LoRA."""
        _check_vocabularies(base, expert)
        eos, banned = _special_ids(base, expert)
        for model in (base, expert):
            model.train(False)
            model.set_attn_implementation(ATTENTION)
            fuse_norms(model)
            lay_out(model)
        return cls(
            expert=expert,
            base=base,
            kind="full" if rows is None else "lora",
            rows=rows or AdapterRows(),
            vocab_size=_vocab_size(expert),
            eos_ids=eos,
            banned_ids=banned,
            bos_ids=frozenset(_first_ids("bos_token_id", expert, base)),
            windowed=any(map(_windowed, (base, expert))),
            max_positions=min(_max_positions(base), _max_positions(expert)),
            recorder=CudaGraphs if recordable(base) and recordable(expert) else None,
        )

    def attach(self, key: str = "", adapters: Sequence[Adapter] = ()) -> None:
        """Hold these adapters beside the expert's own, each for rows of its own, in the place of
        those before; without any: the expert's alone. `key` tells them from others, and the same
        ones again are no work. Buffers and recorded steps of other runs are dropped.

        Raises ModelError for a pair of two models, or adapters that another expert was tuned to.
        """
        if key == self.rows.attached:
            return
        if self.kind != "lora":
            raise ModelError("adapters need an expert that is a LoRA adapter of its base")
        lora.attach(self.expert, adapters)
        self.rows.attached = key
        self.idle.clear()

    @property
    def device(self) -> torch.device:
        """Where the expert's logits come out and the drawing is done."""
        return output_embeddings(self.expert).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights; log-probabilities and scores are always float32."""
        return self.expert.dtype


def check_tokenizers(base: Path, expert: Path) -> None:
    """Raise ModelError when both folders have a tokenizer.json and the two differ.

    Compared is what decides ids: vocabulary, added tokens, normalisation, splitting.
    """
    files = [folder / "tokenizer.json" for folder in (base, expert)]
    if not all(file.is_file() for file in files):
        return
    first, second = (_read_json(file) for file in files)
    parts = ("model", "added_tokens", "normalizer", "pre_tokenizer")
    different = [part for part in parts if first.get(part) != second.get(part)]
    if different:
        raise ModelError(
            f"base {base} and expert {expert} have different tokenizers "
            f"(tokenizer.json: {', '.join(different)}): the expert must be fine-tuned from the base"
        )


def _with_adapter(
    base_model: PreTrainedModel, base: Path, expert: Path, device: str, dtype: str
) -> ModelPair:
    try:
        adapted = lora.load_adapter(base_model, expert)
    except Exception as error:
        raise ModelError(f"adapter {expert} does not fit base {base}: {error}") from error
    if lora.is_plain_lora(adapted):
        rows = AdapterRows()
        shared = lora.split_rows(adapted, rows)
        return ModelPair.of(shared, shared, rows)
    try:
        merged = lora.merged(adapted)
    except Exception as error:
        raise ModelError(f"adapter {expert} cannot be folded into its base: {error}") from error
    return ModelPair.of(_load_model(base, device, dtype), merged)


def _load_model(folder: Path, device: str, dtype: str) -> PreTrainedModel:
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if not folder.is_dir():
        raise ModelError(f"model folder {folder} does not exist")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        _check_architecture(config, folder)
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=DTYPES[dtype],
            device_map="auto" if device == "auto" else None,
            attn_implementation=ATTENTION,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
        return model if device == "auto" else _moved(model, device)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"model {folder} cannot be loaded: {error}") from error


def _moved(model: PreTrainedModel, device: str) -> PreTrainedModel:
    nn.Module.to(model, device)
    return model


def _check_architecture(config: Any, name: object) -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"model {name} is an encoder-decoder ({config.model_type}): "
            "only decoder-only causal language models can be steered"
        )
    kinds = set(getattr(config.get_text_config(), "layer_types", None) or ())
    if kinds - set(KV_LAYERS):
        raise ModelError(
            f"model {name} has layers of kind {', '.join(sorted(kinds - set(KV_LAYERS)))}: "
            f"only attention layers ({', '.join(KV_LAYERS)}) can be steered"
        )


def _check_vocabularies(base: PreTrainedModel, expert: PreTrainedModel) -> None:
    for model in (base, expert):
        _check_architecture(model.config, model.name_or_path)
    sizes = _vocab_size(base), _vocab_size(expert)
    if sizes[0] != sizes[1]:
        raise ModelError(
            f"the base's vocabulary has {sizes[0]} tokens and the expert's {sizes[1]}: "
            "the expert must be fine-tuned from the base with the same vocabulary"
        )


def _special_ids(
    base: PreTrainedModel, expert: PreTrainedModel
) -> tuple[frozenset[int], tuple[int, ...]]:
    """(eos, banned) from the generation config, else the config; the expert's own first."""
    eos = _first_ids("eos_token_id", expert, base)
    pad, bos = _first_ids("pad_token_id", expert, base), _first_ids("bos_token_id", expert, base)
    vocab = range(_vocab_size(expert))
    banned = sorted(token for token in {*pad, *bos} - set(eos) if token in vocab)
    return frozenset(eos), tuple(banned)


def _first_ids(name: str, *models: PreTrainedModel) -> Sequence[int]:
    for model in models:
        for config in (model.generation_config, model.config.get_text_config()):
            value = getattr(config, name, None)
            if value is not None:
                return list(value) if isinstance(value, list | tuple) else [value]
    return []


def _vocab_size(model: PreTrainedModel) -> int:
    return int(output_embeddings(model).shape[0])


def _windowed(model: PreTrainedModel) -> bool:
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return "sliding_attention" in kinds
    return getattr(config, "sliding_window", None) is not None


def _max_positions(model: PreTrainedModel) -> int:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if limit else sys.maxsize


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} is not a tokenizer: it holds no JSON object")
    return content
