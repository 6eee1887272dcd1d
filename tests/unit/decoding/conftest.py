"""Tiny random models, and pairs of them, made once per session."""

from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
import transformers
from hypothesis import settings
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from workers.decoding import ModelPair

settings.register_profile("unhurried", deadline=None)  # no test depends on a machine's speed
settings.load_profile("unhurried")

VOCAB = 61
EOS, PAD, BOS = 2, 0, 1
_IDS = {"vocab_size": VOCAB, "eos_token_id": EOS, "pad_token_id": PAD, "bos_token_id": BOS}
_SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8}
_SHAPE = {"num_attention_heads": 4, "max_position_embeddings": 96, **_SMALL, **_IDS}


def _config(family: str) -> PreTrainedConfig:
    t = transformers
    make: dict[str, Callable[[], PreTrainedConfig]] = {
        "llama": lambda: t.LlamaConfig(num_key_value_heads=2, **_SHAPE),
        "gpt2": lambda: t.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=96, **_IDS),
        "qwen2": lambda: t.Qwen2Config(num_key_value_heads=2, tie_word_embeddings=True, **_SHAPE),
        "mistral": lambda: t.MistralConfig(num_key_value_heads=2, sliding_window=7, **_SHAPE),
        "gemma2": lambda: t.Gemma2Config(
            num_key_value_heads=2, sliding_window=7, query_pre_attn_scalar=8, **_SHAPE
        ),
        "gemma3": lambda: t.Gemma3TextConfig(
            num_key_value_heads=1,
            sliding_window=7,
            layer_types=["sliding_attention", "full_attention"],
            **_SHAPE,
        ),
    }
    return make[family]()


def random_model(family: str, seed: int) -> PreTrainedModel:
    """A model with weights large enough that its predictions are far from uniform."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_config(family)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.6 if "emb" in name or "wte" in name else 0.25)
    return model


def save_adapter(
    base: PreTrainedModel, folder: Path, seed: int, **options: object
) -> PreTrainedModel:
    """Save a random LoRA adapter of `base`; return the base with it merged in."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, **options)
    adapted = peft.get_peft_model(base, config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.normal_(0, 0.2)
    adapted.save_pretrained(folder)
    return adapted.merge_and_unload().eval()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a family: base, full (another model) and lora (an adapter of base) below it."""
    root = tmp_path_factory.mktemp("models")

    def make(family: str) -> Path:
        folder = root / family
        if not folder.exists():
            random_model(family, 1).save_pretrained(folder / "base")
            random_model(family, 2).save_pretrained(folder / "full")
            targets = "all-linear" if family != "gpt2" else ["c_attn", "c_proj", "c_fc"]
            save_adapter(random_model(family, 1), folder / "lora", 3, target_modules=targets)
        return folder

    return make


@pytest.fixture(scope="session")
def pairs(folders: Callable[[str], Path]) -> Callable[[str, str], ModelPair]:
    """The pair of a family and kind ("full", "lora"), loaded once."""
    loaded: dict[tuple[str, str], ModelPair] = {}

    def get(family: str, kind: str) -> ModelPair:
        if (family, kind) not in loaded:
            folder = folders(family)
            loaded[family, kind] = ModelPair.load(folder / "base", folder / kind)
        return loaded[family, kind]

    return get
