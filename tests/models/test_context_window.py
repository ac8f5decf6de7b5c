"""How far a model reads as it is, and what is said about a window that is not what it seems."""

from typing import Any

import pytest
from transformers import CohereConfig, LlamaConfig, Qwen2Config

from ropewalk.models.rope_config import RopeDescription, describe

SIZES: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
LONGROPE: dict[str, Any] = {"rope_type": "longrope", "long_factor": [4.0] * 8, "short_factor": [1.0] * 8}
LLAMA3: dict[str, Any] = {
    "rope_type": "llama3",
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}


def described(longest: int, original_length: int | None = None, **scaling: Any) -> RopeDescription:
    parameters = {"rope_theta": 1e4, "rope_type": "default", **scaling}
    config = LlamaConfig(**SIZES, max_position_embeddings=longest, rope_parameters=parameters)
    return describe(config, original_length=original_length)


@pytest.mark.parametrize(
    ("description", "window", "reach", "noun"),
    [
        (described(256), 256, 256, None),
        (described(256, 128), 128, 128, None),
        # Llama 3.2: its factor is no promise of a length.
        (described(1024, **LLAMA3, original_max_position_embeddings=64), 64, 1024, None),
        (described(1024, **LONGROPE, original_max_position_embeddings=64), 64, 1024, None),
        (described(256, rope_type="yarn", factor=4.0, original_max_position_embeddings=64), 64, 256, None),
        # Qwen3's recommended scaling: 32768 to 131072, in a configuration that says 40960.
        (described(80, rope_type="yarn", factor=4.0, original_max_position_embeddings=64), 64, 256, "80"),
        (described(256, rope_type="linear", factor=4.0), 256, 1024, "--original-length 64"),
        (described(256, 64, rope_type="linear", factor=4.0), 64, 256, None),
        (described(256, rope_type="dynamic", factor=4.0), 256, 1024, "--original-length 64"),
        (described(2**20), 2**20, 2**20, "upper limit"),
        (described(2**20, 8192), 8192, 8192, None),
    ],
)
def test_the_window_the_reach_and_what_is_said(
    description: RopeDescription, window: int, reach: int, noun: str | None
) -> None:
    assert description.geometry.original_length == window
    assert description.own_reach == reach
    assert len(description.window_notes) == (noun is not None)
    assert all(str(noun) in note for note in description.window_notes)
    assert description.own is None or description.own.target_length == reach


def test_another_key_may_state_a_longer_window() -> None:
    """Command R: engines read 131072 tokens, and `max_position_embeddings` says 8192."""
    config = CohereConfig(**SIZES, max_position_embeddings=128, model_max_length=2048)
    description = describe(config)
    assert (description.geometry.original_length, description.own_reach) == (128, 2048)
    assert "`model_max_length` is 2048" in description.window_notes[0]
    assert describe(config, original_length=2048).window_notes == ()


def test_dual_chunks_are_no_trained_window() -> None:
    chunks = {"chunk_size": 256, "local_size": 8, "original_max_position_embeddings": 256}
    config = Qwen2Config(**SIZES, max_position_embeddings=1010, dual_chunk_attention_config=chunks)
    description = describe(config)
    assert (description.geometry.original_length, description.own_reach) == (256, 256)
    assert "dual chunk" in description.window_notes[0]
