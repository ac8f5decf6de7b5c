"""Engines, servers and models that several tests verify."""

import pytest
import torch
from probing import InProcess
from transformers import StableLmConfig, StableLmForCausalLM
from verified_servers import prompts_of

from ropewalk.export import Served
from ropewalk.factors.factor_set import FactorSet
from ropewalk.models.model import load_model
from ropewalk.rope.schemes import scheme_factors


@pytest.fixture(scope="module")
def engine():
    return InProcess()


@pytest.fixture
def partial_folder(tiny_tokenizer, tmp_path):
    """A model that rotates half of each head."""
    config = StableLmConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=64, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5},
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        StableLmForCausalLM(config).save_pretrained(tmp_path / "partial")
    tiny_tokenizer.save_pretrained(tmp_path / "partial")
    return tmp_path / "partial"


@pytest.fixture
def loaded(tiny_model_folder):
    return load_model(tiny_model_folder)


@pytest.fixture
def served(loaded):
    """The window is 64."""
    long = scheme_factors("yarn", loaded.geometry, 256).replace(attention_factor=1.1)
    short = scheme_factors("ntk:factor=1.5", loaded.geometry, 64).replace(attention_factor=1.1)
    return Served.of(FactorSet.of([short, long]), "switching")


@pytest.fixture
def prompts(loaded):
    return prompts_of(loaded)
