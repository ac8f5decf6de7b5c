"""How families rotate their keys is learnt; what does not rotate pair by pair is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, LlamaForCausalLM
from transformers.models.llama import modeling_llama

from ropewalk.errors import ModelError
from ropewalk.models.key_cache import RecordingCache
from ropewalk.models.key_rotation import KeyRotation, learn_key_rotation
from ropewalk.models.model import Model
from ropewalk.rope.frequencies import cos_sin
from ropewalk.rope.schemes import scheme_factors

NUM_TOKENS = 30
SHAPE: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
    "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
PLAIN = {"rope_type": "default", "rope_theta": 100.0}
HALF = {"rope_parameters": {**PLAIN, "partial_rotary_factor": 0.5}}
MINUS, PLUS = (-1.0,) * 4, (1.0,) * 4

# What differs from SHAPE, and what is learnt: pairs, partners, signs.
FAMILIES: dict[str, tuple[dict[str, Any], tuple[Any, Any, Any]]] = {
    "llama": ({}, ((0, 1, 2, 3) * 2, (4, 5, 6, 7, 0, 1, 2, 3), MINUS + PLUS)),
    "qwen3": ({}, ((0, 1, 2, 3) * 2, (4, 5, 6, 7, 0, 1, 2, 3), MINUS + PLUS)),
    "cohere": ({}, ((0, 0, 1, 1, 2, 2, 3, 3), (1, 0, 3, 2, 5, 4, 7, 6), (-1.0, 1.0) * 4)),
    "glm": (HALF, ((0, 0, 1, 1, 3, 3, 3, 3), (1, 0, 3, 2, 4, 5, 6, 7), (-1.0, 1.0) * 2 + (0.0,) * 4)),
    "gpt_neox": (
        HALF,
        ((0, 1, 0, 1, 3, 3, 3, 3), (2, 3, 0, 1, 4, 5, 6, 7), (-1.0, -1.0, 1.0, 1.0) + (0.0,) * 4),
    ),
}


def build(family: str, **changes: Any) -> Model:
    config = CONFIG_MAPPING[family](**{**SHAPE, "rope_parameters": PLAIN, **changes})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Model.wrap(AutoModelForCausalLM.from_config(config).eval())


@torch.no_grad()
def stored(model: Model, scheme: str) -> list[tuple[Tensor, Tensor]]:
    """What each layer stores of a text under a scheme."""
    found: list[tuple[Tensor, Tensor]] = []
    ids = torch.randint(1, 60, (1, NUM_TOKENS), generator=torch.Generator().manual_seed(1))
    with model.using(scheme_factors(scheme, model.geometry, 256)):
        model.decoder(
            input_ids=ids,
            past_key_values=RecordingCache(lambda _, keys, values: found.append((keys, values))),
            use_cache=True,
        )
    return found


def columns(model: Model, rotation: KeyRotation, scheme: str, *, inverse: bool = False) -> Any:
    factors = scheme_factors(scheme, model.geometry, 256)
    tables = rotation.columns(*cos_sin(factors, torch.arange(NUM_TOKENS)), inverse=inverse)
    return [table.float() for table in tables]


def assert_first_layer_rotates(model: Model, rotation: KeyRotation) -> None:
    """The keys of the first rotating layer under YaRN, rotated back and by NTK, are those under NTK."""
    before, after = stored(model, "yarn"), stored(model, "ntk")
    first = rotation.layers.index(True)
    back = rotation.rotate(before[first], *columns(model, rotation, "yarn", inverse=True))
    again = rotation.rotate(back, *columns(model, rotation, "ntk"))

    assert float((before[first][rotation.part] - after[first][rotation.part]).abs().max()) > 0.1
    for found, expected in zip(again, after[first], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_pairs_of_a_family_are_learnt(family: str) -> None:
    changes, (pairs, partners, signs) = FAMILIES[family]
    model = build(family, **changes)
    rotation = model.key_rotation

    assert rotation == KeyRotation(
        layers=(True, True), part=0, is_scaled=True, pairs=pairs, partners=partners, signs=signs
    )
    assert model.key_rotation is rotation
    assert model.factors is None
    assert_first_layer_rotates(model, rotation)


def test_latent_attention_rotates_what_it_stores_as_values() -> None:
    sizes = {
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
    }
    model = build("deepseek_v3", **sizes, num_key_value_heads=4, first_k_dense_replace=2)
    rotation = model.key_rotation

    assert rotation.part == 1
    assert len(rotation.pairs) == 8
    assert_first_layer_rotates(model, rotation)


def test_keys_that_are_normalised_after_rotation_ignore_the_attention_factor() -> None:
    model = build("nanochat")
    rotation = model.key_rotation

    assert not rotation.is_scaled
    assert_first_layer_rotates(model, rotation)


@pytest.mark.parametrize("family", ["gemma3_text", "cohere2"])
def test_layers_that_factors_do_not_change_are_copied(family: str) -> None:
    """Gemma 3 has another rotary in sliding layers; in Cohere 2 only sliding layers have positions."""
    kinds = ["sliding_attention", "full_attention"]
    theta = {"rope_parameters": dict.fromkeys(kinds, PLAIN)} if family == "gemma3_text" else {}
    model = build(family, layer_types=kinds, sliding_window=512, **theta)

    assert model.key_rotation.layers == ((False, True) if family == "gemma3_text" else (True, False))
    assert_first_layer_rotates(model, model.key_rotation)


def test_a_model_with_recurrent_layers_is_refused() -> None:
    kinds = {"layer_types": ["linear_attention", "full_attention"]}
    with pytest.raises(ModelError, match="exact"):
        _ = build("qwen3_next", **kinds, num_experts=4, num_experts_per_tok=2).key_rotation


@pytest.mark.parametrize("changed", ["keys", "order"])
def test_keys_that_change_after_rotation_are_refused(
    tiny_model: LlamaForCausalLM, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = modeling_llama.apply_rotary_pos_emb
    scale = torch.linspace(0.5, 2.0, 8)

    def later(query: Tensor, key: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        query, key = original(query, key, *args, **kwargs)
        return (query, key * scale) if changed == "keys" else (query, key.cumsum(-1))

    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", later)
    with pytest.raises(ModelError, match="exact"):
        learn_key_rotation(Model.wrap(tiny_model))


def test_a_family_whose_attention_ignores_the_cache_is_refused(tiny_model: LlamaForCausalLM) -> None:
    class WithoutCache(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, hidden: Tensor, **inputs: Any) -> Any:
            return self.layer(hidden, **{**inputs, "past_key_values": None, "attention_mask": None})

    tiny_model.model.layers[1] = WithoutCache(tiny_model.model.layers[1])
    with pytest.raises(ModelError, match="exact"):
        learn_key_rotation(Model.wrap(tiny_model))
