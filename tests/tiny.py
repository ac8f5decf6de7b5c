"""A model that is made in a moment."""

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def make_tiny_model(tokenizer: Any) -> LlamaForCausalLM:
    """A random Llama with a window of 64 tokens; weights are large enough that context changes its logits."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()
