"""A model that is made in a moment, and texts for it."""

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ropewalk.text.tokens import DocumentSet, token_documents

# Of any family; weights are large enough that context changes the logits.
TINY_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def make_tiny_model(tokenizer: Any) -> LlamaForCausalLM:
    """A random Llama with a window of 64 tokens."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        attn_implementation="sdpa",
        **TINY_SHAPE,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


def make_texts(folder: Path, tokenizer: Any, *, length: int, names: str = "ab") -> DocumentSet:
    """A file a name, each a document longer than 1000 tokens."""
    for name in names:
        (folder / f"{name}.txt").write_text(f"{name} line of text, and another. " * 40)
    return token_documents(str(folder / "*.txt"), tokenizer, length=length, num_documents=len(names))
