"""Attention factors equal those of transformers, and are 1 without extension."""

import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ropewalk.rope.attention_factor import longrope_attention_factor, yarn_attention_factor


def of_transformers(rope_type, length, factor, **extra):
    config = LlamaConfig(
        hidden_size=32,
        num_attention_heads=2,
        num_hidden_layers=2,
        max_position_embeddings=int(length * factor),
        rope_parameters={
            "rope_type": rope_type, "rope_theta": 625.0, "factor": factor,
            "original_max_position_embeddings": length, **extra,
        },
    )  # fmt: skip
    _, attention_factor = ROPE_INIT_FUNCTIONS[rope_type](config, "cpu")
    return attention_factor


@pytest.mark.parametrize(("length", "factor"), [(256, 8.0), (4096, 32.0), (8192, 2.5), (64, 1.0)])
def test_they_equal_those_of_transformers(length, factor):
    vectors = {"short_factor": [1.0] * 8, "long_factor": [1.0] * 8}
    longrope = of_transformers("longrope", length, factor, **vectors)
    assert longrope_attention_factor(factor, length) == pytest.approx(longrope, rel=1e-12)
    assert yarn_attention_factor(factor) == pytest.approx(of_transformers("yarn", length, factor), rel=1e-12)


def test_without_extension_they_are_1():
    assert yarn_attention_factor(0.5) == longrope_attention_factor(0.5, 256) == 1
