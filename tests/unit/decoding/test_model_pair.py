"""Loading pairs: what a worker learns from them, and what is refused and why."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import PreTrainedModel

from factory.errors import ModelError
from factory.guidance import Guidance, Sampling
from workers.decoding import ModelPair, Request, SteerDecoder

from . import conftest

Folders = Callable[[str], Path]


@pytest.fixture
def folder(folders: Folders, tmp_path: Path) -> Path:
    """A copy of the Llama pair that a test may spoil."""
    return Path(shutil.copytree(folders("llama"), tmp_path / "llama"))


def run(pair: ModelPair) -> list[tuple[int, ...]]:
    requests = [Request((5, 6), (7, 8, 9), seed=i) for i in range(6)]
    decoder = SteerDecoder(pair, Guidance(gamma=0.5), Sampling(max_new_tokens=10))
    return [c.token_ids for c in sorted(decoder.run(requests), key=lambda c: c.index)]


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_what_a_worker_learns(kind: str, folders: Folders) -> None:
    pair = ModelPair.load(folders("llama") / "base", folders("llama") / kind)
    assert (pair.kind, pair.vocab_size, pair.max_positions) == (kind, conftest.VOCAB, 96)
    assert (pair.device, pair.dtype) == (torch.device("cpu"), torch.float32)
    assert pair.eos_ids == {conftest.EOS}
    assert pair.banned_ids == (conftest.PAD, conftest.BOS)


def test_a_lora_pair_holds_the_weights_once(folders: Folders) -> None:
    base, adapter = folders("llama") / "base", folders("llama") / "lora"
    pair = ModelPair.load(base, adapter)
    full = ModelPair.load(folders("llama") / "base", folders("llama") / "full")
    assert pair.expert is pair.base
    adapters = sum(x.numel() for x in load_file(adapter / "adapter_model.safetensors").values())
    assert _held(pair.expert) == _held(full.base) + adapters


def _held(model: PreTrainedModel) -> int:
    """Numbers that a model holds, what is not saved with it among them."""
    return sum(x.numel() for x in (*model.parameters(), *model.buffers()))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_lora_makes_the_tokens_of_its_merged_expert(
    family: str, folders: Folders, tmp_path: Path
) -> None:
    folder = folders(family)
    targets = "all-linear" if family != "gpt2" else ["c_attn", "c_proj", "c_fc"]
    base = conftest.random_model(family, 1)
    merged = conftest.save_adapter(base, tmp_path / "adapter", 3, target_modules=targets)
    merged.save_pretrained(tmp_path / "merged")
    want = run(ModelPair.load(folder / "base", tmp_path / "merged"))
    lora = ModelPair.load(folder / "base", folder / "lora")
    assert (lora.kind, run(lora)) == ("lora", want)


@pytest.mark.parametrize(
    "options",
    [
        {"use_dora": True, "target_modules": ["q_proj"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
    ],
)
def test_other_adapters_are_folded_into_a_second_copy(
    options: dict[str, object], folders: Folders, tmp_path: Path
) -> None:
    base = conftest.random_model("llama", 1)
    merged = conftest.save_adapter(base, tmp_path / "adapter", 3, **options)
    merged.save_pretrained(tmp_path / "merged")
    pair = ModelPair.load(folders("llama") / "base", tmp_path / "adapter")
    assert pair.kind == "full"
    assert run(pair) == run(ModelPair.load(folders("llama") / "base", tmp_path / "merged"))


def test_a_mixture_of_experts_cannot_split_rows_in_its_own_layers(tmp_path: Path) -> None:
    """Its gate sees tokens, not rows: the adapter there must not be applied to wrong ones."""
    config = transformers.Qwen2MoeConfig(
        num_experts=2, num_experts_per_tok=1, num_key_value_heads=2, moe_intermediate_size=8,
        shared_expert_intermediate_size=8, **conftest._SHAPE,
    )  # fmt: skip
    torch.manual_seed(1)
    base = transformers.AutoModelForCausalLM.from_config(config)
    base.save_pretrained(tmp_path / "base")
    for targets, works in ((["q_proj", "o_proj"], True), (["shared_expert_gate"], False)):
        fresh = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        merged = conftest.save_adapter(fresh, tmp_path / "adapter", 3, target_modules=targets)
        merged.save_pretrained(tmp_path / "merged")
        want = run(ModelPair.load(tmp_path / "base", tmp_path / "merged"))
        pair = ModelPair.load(tmp_path / "base", tmp_path / "adapter")
        if works:
            assert run(pair) == want
        else:
            with pytest.raises(ModelError, match="does not see whole rows"):
                run(pair)


def test_rank_stabilised_adapters_keep_their_scale(folders: Folders, tmp_path: Path) -> None:
    base = conftest.random_model("llama", 1)
    options = {"target_modules": ["q_proj", "up_proj"], "use_rslora": True}
    merged = conftest.save_adapter(base, tmp_path / "adapter", 3, **options)
    merged.save_pretrained(tmp_path / "merged")
    want = run(ModelPair.load(folders("llama") / "base", tmp_path / "merged"))
    pair = ModelPair.load(folders("llama") / "base", tmp_path / "adapter")
    assert (pair.kind, run(pair)) == ("lora", want)


def test_ids_come_from_the_generation_config_first(folder: Path) -> None:
    for part in ("base", "full"):
        file = folder / part / "generation_config.json"
        file.write_text(json.dumps({"eos_token_id": [2, 7], "pad_token_id": 7, "bos_token_id": 1}))
    pair = ModelPair.load(folder / "base", folder / "full")
    assert pair.eos_ids == {2, 7}
    assert pair.banned_ids == (1,)  # a pad that ends a row is not banned


def test_half_precision_runs(folders: Folders) -> None:
    base, adapter = folders("llama") / "base", folders("llama") / "lora"
    pair = ModelPair.load(base, adapter, dtype="bfloat16")
    assert pair.dtype == torch.bfloat16
    assert all(ids for ids in run(pair))


def test_a_model_may_be_spread_over_what_devices_there_are(folders: Folders) -> None:
    base, adapter = folders("llama") / "base", folders("llama") / "lora"
    assert run(ModelPair.load(base, adapter, device="auto")) == run(ModelPair.load(base, adapter))


def test_different_vocabularies(folder: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "full")
    model.resize_token_embeddings(conftest.VOCAB + 3)
    model.save_pretrained(folder / "full")
    with pytest.raises(ModelError, match="base's vocabulary has 61 tokens and the expert's 64"):
        ModelPair.load(folder / "base", folder / "full")


@pytest.mark.parametrize("expert", ["full", "lora"])
def test_different_tokenizers(expert: str, folder: Path) -> None:
    tokenizer = {"model": {"vocab": {"a": 0, "b": 1}}, "truncation": None}
    (folder / "base" / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / expert / "tokenizer.json").write_text(json.dumps({**tokenizer, "truncation": 5}))
    ModelPair.load(folder / "base", folder / expert)
    tokenizer["model"] = {"vocab": {"b": 0, "a": 1}}
    (folder / expert / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match="different tokenizers"):
        ModelPair.load(folder / "base", folder / expert)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_tokenizer_file(content: str, folder: Path) -> None:
    for part in ("base", "full"):
        (folder / part / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match="tokenizer"):
        ModelPair.load(folder / "base", folder / "full")


def test_an_encoder_decoder(folder: Path) -> None:
    config = transformers.T5Config(
        vocab_size=61, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2
    )
    transformers.T5ForConditionalGeneration(config).save_pretrained(folder / "t5")
    with pytest.raises(ModelError, match="encoder-decoder"):
        ModelPair.load(folder / "t5", folder / "full")


def test_layers_whose_state_is_no_plain_cache(folder: Path) -> None:
    config = transformers.Qwen3NextConfig(
        num_experts=2, num_experts_per_tok=1, linear_num_value_heads=4, linear_num_key_heads=2,
        linear_key_head_dim=8, linear_value_head_dim=8, num_key_value_heads=2,
        moe_intermediate_size=8, shared_expert_intermediate_size=8, **conftest._SHAPE,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(ModelError, match="linear_attention"):
        ModelPair.of(model, model)


def test_attention_that_cannot_be_replaced(folder: Path) -> None:
    config = transformers.CodeGenConfig(
        vocab_size=61, n_embd=32, n_head=4, n_layer=2, rotary_dim=4, n_positions=64, n_ctx=64
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder / "codegen")
    with pytest.raises(ModelError, match="attention"):
        run(ModelPair.load(folder / "codegen", folder / "codegen"))


def test_pickled_weights_are_not_read(folder: Path) -> None:
    weights = folder / "full" / "model.safetensors"
    torch.save({"x": torch.zeros(1)}, folder / "full" / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        ModelPair.load(folder / "base", folder / "full")


def test_remote_code_is_not_run(folder: Path) -> None:
    file = folder / "full" / "config.json"
    marker = folder / "ran"
    (folder / "full" / "code.py").write_text(f"open({str(marker)!r}, 'w')\nclass M: pass\n")
    config = json.loads(file.read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "code.M", "AutoModelForCausalLM": "code.M"},
    }
    file.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="cannot be loaded"):
        ModelPair.load(folder / "base", folder / "full")
    assert not marker.exists()


def test_an_adapter_of_another_shape(folder: Path, folders: Folders) -> None:
    with pytest.raises(ModelError, match="does not fit base"):
        ModelPair.load(folders("gpt2") / "base", folder / "lora")


def test_an_adapter_that_can_be_neither_applied_nor_folded_in(folder: Path) -> None:
    config = peft.LoraConfig(target_modules=["q_proj"], lora_bias=True)
    peft.get_peft_model(conftest.random_model("llama", 1), config).save_pretrained(folder / "lora")
    with pytest.raises(ModelError, match="cannot be folded into its base"):
        ModelPair.load(folder / "base", folder / "lora")


def test_a_folder_that_is_not_there(folder: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        ModelPair.load(folder / "nowhere", folder / "full")
    with pytest.raises(ModelError, match="dtype 'int3'"):
        ModelPair.load(folder / "base", folder / "full", dtype="int3")
