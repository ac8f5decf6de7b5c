"""The hash of weights: of a checkpoint's files it is that of the loaded model, or none."""

import pytest
import torch
from transformers import CohereConfig, Gemma2Config, GPTNeoXConfig, LlamaConfig, Phi3Config, Qwen3MoeConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from ropewalk.models.fingerprint import hash_stored_weights, hash_weights

SIZES = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
MODELS = {
    "llama": LlamaConfig(**SIZES),
    "llama, tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "gemma2": Gemma2Config(**SIZES, num_key_value_heads=1, head_dim=32),
    "cohere": CohereConfig(**SIZES),
    "phi3": Phi3Config(**SIZES),
}
# The output layer has another name in a file; experts are saved one by one, and loaded as one tensor.
STORED_OTHERWISE = {
    "gpt_neox": GPTNeoXConfig(**SIZES),
    "qwen3_moe": Qwen3MoeConfig(**SIZES, num_key_value_heads=1, num_experts=4, moe_intermediate_size=16),
}


def build(config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shards", ["10GB", "20KB"])
@pytest.mark.parametrize("name", MODELS)
def test_of_files_it_is_that_of_the_loaded_model(name, shards, dtype, tmp_path):
    build(MODELS[name]).to(dtype).save_pretrained(tmp_path, max_shard_size=shards)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) == 1 or shards == "20KB"
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert hash_stored_weights(loaded.config, files) == hash_weights(loaded)


def test_layers_that_are_not_stored_are_not_built(tmp_path):
    build(MODELS["llama"]).save_pretrained(tmp_path)
    many = LlamaConfig(**{**SIZES, "num_hidden_layers": 10**9})
    assert hash_stored_weights(many, tmp_path.glob("*.safetensors")) is None


@pytest.mark.parametrize("name", STORED_OTHERWISE)
def test_files_that_hold_a_model_in_another_form_have_none(name, tmp_path):
    build(STORED_OTHERWISE[name]).save_pretrained(tmp_path)
    assert hash_stored_weights(STORED_OTHERWISE[name], tmp_path.glob("*.safetensors")) is None
