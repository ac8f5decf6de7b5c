"""A configuration is compared with the rotary that is built from it, wherever a configuration is trusted."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from ropewalk.errors import ModelError
from ropewalk.models.rope_config import describe, factors_from_config
from ropewalk.models.rotary_calls import find_rotary

WINDOW, LONGEST, NUM_PAIRS = 64, 256, 8
SIZES: dict[str, Any] = {
    "vocab_size": 32, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 4, "head_dim": 16,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": LONGEST,
    "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
LATENT = {
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "deepseek_v3": LATENT,
    "minicpm3": LATENT,
    "gpt_neox": {"rotary_pct": 0.25, "head_dim": None, "hidden_size": 256},
    "glm4": {"partial_rotary_factor": 0.5, "head_dim": 32},
    "cohere": {},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"] * 2, "head_dim": 64},
}
SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {},
    "dynamic": {},
    "yarn": {"original_max_position_embeddings": WINDOW},
    "llama3": {
        "original_max_position_embeddings": WINDOW, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    },
    "longrope": {
        "original_max_position_embeddings": WINDOW, "long_factor": [1.0 + pair for pair in range(NUM_PAIRS)],
        "short_factor": [1.0 + 0.1 * pair for pair in range(NUM_PAIRS)],
    },
}  # fmt: skip
HUNYUAN = {"type": "dynamic", "factor": 1.0, "alpha": 1000.0, "beta_fast": 32, "beta_slow": 1}


def config_of(family: str, **changes: Any) -> Any:
    sizes = {**SIZES, **FAMILIES.get(family, {})}
    sizes = {key: value for key, value in sizes.items() if value is not None}
    return CONFIG_MAPPING[family](**{**sizes, **changes})


@pytest.mark.parametrize("family", FAMILIES)
def test_every_scaling_of_a_family_is_what_its_rotary_does(family: str) -> None:
    for rope_type, scaling in SCALINGS.items():
        plain = config_of(family).rope_parameters
        scaled = {**plain, "rope_type": rope_type, "factor": 4.0, **scaling}
        longest = WINDOW if rope_type in ("linear", "dynamic") else LONGEST
        config = config_of(family, rope_parameters=scaled, max_position_embeddings=longest)
        description = describe(config)
        assert description.geometry.num_pairs == NUM_PAIRS
        assert description.own is not None
        assert description.own.target_length == LONGEST
        assert description.own.array().max() > 1


def test_hunyuans_alpha_rescales_the_base_whatever_its_factor_says() -> None:
    config = config_of("hunyuan_v1_dense", rope_scaling=HUNYUAN, rope_theta=1e4)
    own = describe(config).own
    assert own is not None
    with torch.device("cpu"):
        rotary: Any = find_rotary(AutoModelForCausalLM.from_config(config), "hunyuan").rotary
    turned = own.geometry.inverse_frequencies() / own.array()[0]
    np.testing.assert_allclose(turned, rotary.inv_freq.double().numpy(), rtol=1e-5)
    assert own.array().max() == pytest.approx(1000)
    assert factors_from_config(config.to_dict()).rescale_factors == own.rescale_factors
    # Another family knows no alpha, and its factors are those of `dynamic`.
    llama = describe(config_of("llama", rope_scaling=HUNYUAN, rope_theta=1e4)).own
    assert llama is not None
    assert llama.array().tolist() == [[1.0] * NUM_PAIRS]


@pytest.mark.parametrize(
    ("family", "changes", "key"),
    [
        (
            "granitemoehybrid",
            {
                "position_embedding_type": "nope",
                "layer_types": ["mamba", "attention"],
                "num_hidden_layers": 2,
            },
            "position_embedding_type",
        ),
        ("zamba2", {"use_mem_rope": False}, "use_mem_rope"),
    ],
)
def test_a_family_that_leaves_its_rotary_out_is_refused(
    family: str, changes: dict[str, Any], key: str
) -> None:
    config = CONFIG_MAPPING[family](**changes)
    with pytest.raises(ModelError, match=key):
        describe(config, original_length=WINDOW)
    with pytest.raises(ModelError, match=key):
        factors_from_config(config.to_dict())


@pytest.mark.parametrize(
    ("family", "changes", "num_rotary"),
    [
        ("llama", {}, 4),
        ("smollm3", {"no_rope_layers": [1, 1, 1, 0]}, 3),
        ("llama4_text", {"no_rope_layers": [1, 0, 1, 0]}, 2),
        ("cohere2", {"sliding_window": 16, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]}, 3),
        ("exaone4", {"sliding_window": 16, "sliding_window_pattern": 4}, 3),
        ("exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 4}, 4),
        ("qwen3_next", {"layer_types": ["linear_attention", "full_attention"] * 2}, 2),
    ],
)
def test_layers_that_do_not_rotate_are_not_counted(
    family: str, changes: dict[str, Any], num_rotary: int
) -> None:
    description = describe(config_of(family, **changes))
    assert description.num_rotary_layers == num_rotary
    only_windows = family in ("cohere2", "llama4_text") or changes.get("sliding_window") is not None
    assert ("no rotary" in " ".join(description.window_notes)) == only_windows


@pytest.mark.parametrize("family", ["smollm3", "cohere2"])
def test_a_model_none_of_whose_layers_rotates_is_refused(family: str) -> None:
    changes = {"no_rope_layers": [0] * 4} if family == "smollm3" else {"layer_types": ["full_attention"] * 4}
    with pytest.raises(ModelError, match="layers"):
        describe(config_of(family, **changes))


def test_a_private_frequency_is_noticed_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def private(config: Any, **_: Any) -> tuple[torch.Tensor, float]:
        return 50.0 ** -(torch.arange(NUM_PAIRS) / NUM_PAIRS), 1.0

    config = LlamaConfig(**SIZES, rope_parameters={"rope_type": "default", "rope_theta": 100.0})
    describe(config)
    monkeypatch.setattr(LlamaRotaryEmbedding, "compute_default_rope_parameters", staticmethod(private))
    with pytest.raises(ModelError, match="frequencies"):
        describe(config)


@pytest.mark.parametrize("key", ["rope_type", "attention_factor"])
def test_a_scaling_that_the_model_ignores_is_noticed(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """One that takes no notice of its type, or of its attention factor."""
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": WINDOW}
    config = LlamaConfig(**SIZES, rope_parameters={"rope_theta": 100.0, **scaling})
    describe(config)
    original = LlamaRotaryEmbedding.forward

    def ignoring(self: Any, x: torch.Tensor, position_ids: torch.Tensor) -> Any:
        if key == "rope_type":
            if self.rope_type != "default":  # a probe's own frequencies are kept
                self.inv_freq = self.compute_default_rope_parameters(self.config)[0]
        else:
            self.attention_scaling = 1.0
        return original(self, x, position_ids)

    monkeypatch.setattr(LlamaRotaryEmbedding, "forward", ignoring)
    with pytest.raises(ModelError, match="frequencies"):
        describe(config)


def test_a_dimension_that_the_family_does_not_read_is_noticed() -> None:
    """Llama rotates whole heads, whatever `partial_rotary_factor` says."""
    with pytest.raises(ModelError, match="rotary"):
        describe(config_of("llama", partial_rotary_factor=0.5))


def test_dynamic_scaling_leaves_short_inputs_alone() -> None:
    scaling = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0}
    description = describe(config_of("llama", rope_parameters=scaling))
    assert description.original_factors().array().tolist() == [[1.0] * NUM_PAIRS]
    assert description.own is not None
    assert description.own.array().max() > 1


def test_phi_moe_keeps_its_short_factors_in_transformers() -> None:
    mscales = {"short_mscale": 1.1, "long_mscale": 1.2}
    scaling = {"rope_type": "longrope", "rope_theta": 100.0, **SCALINGS["longrope"], **mscales}
    description = describe(config_of("phimoe", rope_parameters=scaling))
    assert description.own_reach == WINDOW
    assert "short" in description.window_notes[-1]
    assert description.own is not None
    assert description.own.array().max() == NUM_PAIRS
