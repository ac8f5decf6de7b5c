"""The attention factor in the query weights of families that compute their queries in different ways."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    CohereConfig,
    GPTNeoXConfig,
    Olmo2Config,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
    StableLmConfig,
)

from ropewalk.errors import ExportError
from ropewalk.export.hf import export_hf
from ropewalk.export.settings import ExportSettings
from ropewalk.factors.factor_set import FactorSet
from ropewalk.models.model_files import describe_model
from ropewalk.rope.attention_factor import longrope_attention_factor
from ropewalk.rope.schemes import scheme_factors
from ropewalk.store import hash_file

SIZES = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 64, "initializer_range": 0.2, "pad_token_id": 0,
}  # fmt: skip
HALF = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}
WHOLE = {"rope_type": "default", "rope_theta": 100.0}


@pytest.fixture
def saved(tiny_tokenizer, tmp_path):
    """A random model of a family, with random norms and biases."""

    def save(config_class, *, dtype=torch.float32, **changes):
        sizes = {**SIZES, "vocab_size": len(tiny_tokenizer), "rope_parameters": dict(WHOLE), **changes}
        config = config_class(**sizes)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config)
            for name, parameter in model.named_parameters():
                if name.endswith("bias") or "norm" in name:
                    parameter.data += 0.3 * torch.randn_like(parameter)
        folder = tmp_path / config.model_type
        model.to(dtype).save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return folder

    return save


def fold(folder, out, attention_factor=1.05):
    long = scheme_factors("yarn", describe_model(folder).geometry, 256)
    factor_set = FactorSet.of([long.replace(attention_factor=attention_factor)])
    export_hf(str(folder), factor_set, out, settings=ExportSettings(fold_attention_factor=True))
    before, after = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    changed = {".".join(name.split(".")[-2:]) for name in before if not before[name].equal(after[name])}
    return changed, json.loads((out / "ropewalk.json").read_text())["folded"]


@pytest.mark.parametrize(
    ("config_class", "changes", "wanted"),
    [
        (Qwen2Config, {}, {"q_proj.weight", "q_proj.bias"}),
        (Qwen3Config, {"head_dim": 32}, {"q_norm.weight"}),
        (Olmo2Config, {}, {"q_norm.weight"}),
        (CohereConfig, {"use_qk_norm": True}, {"q_norm.weight"}),
        (Phi3Config, {"rope_parameters": dict(HALF)}, {"qkv_proj.weight"}),
        (
            StableLmConfig,
            {"rope_parameters": dict(HALF), "use_qkv_bias": True},
            {"q_proj.weight", "q_proj.bias"},
        ),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_families_give_equal_logits(saved, tmp_path, config_class, changes, wanted):
    changed, folded = fold(saved(config_class, **changes), tmp_path / "out")
    assert changed == wanted
    assert folded["logit_difference"] < 2e-5


@pytest.mark.parametrize(
    ("config_class", "changes", "noun"),
    [
        (GPTNeoXConfig, {"rope_parameters": {**HALF, "partial_rotary_factor": 0.25}}, "query weights"),
        (SmolLM3Config, {"no_rope_layers": [1, 0]}, "logits"),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_families_that_it_can_not_be_right_for_are_refused(saved, tmp_path, config_class, changes, noun):
    folder = saved(config_class, **changes)
    with pytest.raises(ExportError, match=noun):
        fold(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_half_precision_says_what_rounding_cost(saved, tmp_path):
    _, folded = fold(saved(Qwen2Config, dtype=torch.bfloat16), tmp_path / "out")
    assert 1e-6 < folded["logit_difference"] < 3e-2
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert AutoConfig.from_pretrained(tmp_path / "out").dtype == torch.bfloat16


def test_what_engines_compute_already_is_not_folded(saved, tmp_path):
    folder = saved(Qwen2Config)
    computed = longrope_attention_factor(4, 64)
    changed, folded = fold(folder, tmp_path / "out", attention_factor=computed)
    assert changed == set()
    assert folded is None
    assert hash_file(tmp_path / "out" / "model.safetensors") == hash_file(folder / "model.safetensors")
