"""What needs a CUDA device; run by `make test-gpu`, and part of no other run.

Only torch, transformers, peft and pytest are needed, so that a bare GPU machine can run it:
`python -m pytest tests/gpu`. Without a device every test fails: a skip would look like a pass.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.unit.decoding.conftest import random_model, save_adapter
from workers.decoding import ModelPair

Pairs = Callable[..., ModelPair]


@pytest.fixture(scope="session")
def cuda() -> torch.device:
    if not torch.cuda.is_available():
        pytest.fail("no CUDA device is visible: run `make test-gpu` on a machine with one")
    return torch.device("cuda:0")


@pytest.fixture(scope="session")
def kernel_device(request: pytest.FixtureRequest) -> torch.device:
    """Where the kernel's tests run: Triton's interpreter needs no card."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return torch.device("cpu")
    device: torch.device = request.getfixturevalue("cuda")
    return device


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
def pairs(folders: Callable[[str], Path], cuda: torch.device) -> Pairs:
    """A pair of a family and kind ("full", "lora") on the card; `options` as for `load`."""

    def load(family: str, kind: str, dtype: str = "float32", **options: bool) -> ModelPair:
        folder = folders(family)
        return ModelPair.load(folder / "base", folder / kind, str(cuda), dtype, **options)

    return load


@pytest.fixture(scope="session")
def middling(cuda: torch.device) -> ModelPair:
    """A pair of two models of about 160 million parameters in bf16, big enough to fill memory."""
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=8,
        num_attention_heads=16,
        num_key_value_heads=16,
        max_position_embeddings=65536,
    )
    with torch.device(cuda):
        torch.manual_seed(0)
        base, expert = (LlamaForCausalLM(config).to(torch.bfloat16) for _ in range(2))
    return ModelPair.of(base, expert)
