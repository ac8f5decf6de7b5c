"""A configuration's geometry and own scaling, in either form, pair by pair as transformers computes it."""

from typing import Any

import numpy as np
import pytest
from transformers import (
    BloomConfig,
    DeepseekV3Config,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    Llama4Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ropewalk.errors import ModelError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.rope_config import describe, factors_from_config

NUM_PAIRS = 16
LONG, SHORT = [1.0 + 0.5 * pair for pair in range(NUM_PAIRS)], [1.0 + 0.1 * pair for pair in range(NUM_PAIRS)]

SCALINGS: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 8.0},
    "dynamic": {"rope_type": "dynamic", "factor": 8.0},
    "yarn": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512},
    "yarn untruncated": {
        "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512, "truncate": False,
        "beta_fast": 16.0, "beta_slow": 2.0,
    },
    "yarn of DeepSeek": {
        "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512, "mscale": 1.0,
        "mscale_all_dim": 0.7,
    },
    "yarn with its attention factor": {
        "rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 512, "attention_factor": 1.5,
    },
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 512, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
    "longrope": {
        "rope_type": "longrope", "factor": 8.0, "original_max_position_embeddings": 512, "long_factor": LONG,
        "short_factor": SHORT,
    },
    "longrope with its attention factor": {
        "rope_type": "longrope", "original_max_position_embeddings": 512, "long_factor": LONG,
        "short_factor": SHORT, "attention_factor": 1.25,
    },
}  # fmt: skip


def llama(**changes: Any) -> LlamaConfig:
    sizes = {"hidden_size": 128, "num_attention_heads": 4, "num_hidden_layers": 3, "head_dim": 2 * NUM_PAIRS}
    return LlamaConfig(**{**sizes, "max_position_embeddings": 4096, **changes})


def scaled(name: str) -> LlamaConfig:
    # `dynamic` and `linear` grow from `max_position_embeddings`; the others state where they start.
    longest = 512 if name in ("dynamic", "linear") else 4096
    return llama(rope_parameters={"rope_theta": 1000.0, **SCALINGS[name]}, max_position_embeddings=longest)


def assert_turns_as(own: RescaleFactors, config: Any, seq_len: int | None) -> None:
    theirs, attention_factor = ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]](
        config, device="cpu", seq_len=seq_len
    )
    ours = own.geometry.inverse_frequencies() / own.array()[0]
    np.testing.assert_allclose(ours, theirs.double().numpy(), rtol=2e-6)
    assert own.attention_factor == pytest.approx(attention_factor, rel=1e-12)


@pytest.mark.parametrize("name", SCALINGS)
def test_own_scaling_turns_every_pair_as_transformers_does(name: str) -> None:
    config = scaled(name)
    description = describe(config)
    assert description.geometry.original_length == 512
    assert description.own is not None
    assert description.own.target_length == 4096
    assert description.own.array().max() > 1
    assert_turns_as(description.own, config, seq_len=4096)


def test_longrope_carries_a_second_set_for_short_lengths() -> None:
    description = describe(scaled("longrope"))
    assert description.own_short is not None
    assert description.own_short.target_length == 512
    assert_turns_as(description.own_short, scaled("longrope"), seq_len=None)


def test_a_model_without_scaling_has_no_own_factors() -> None:
    description = describe(llama(rope_parameters={"rope_type": "default", "rope_theta": 625.0}))
    assert (description.own, description.own_short, description.own_problem) == (None, None, None)
    assert description.geometry.as_dict() == {
        "head_dim": 32, "rotary_dim": 32, "rope_theta": 625.0, "original_length": 4096, "num_layers": 3,
    }  # fmt: skip


@pytest.mark.parametrize("name", SCALINGS)
def test_the_older_form_reads_the_same(name: str) -> None:
    """transformers 4: `rope_scaling` with `type`, and theta beside it."""
    config = scaled(name)
    older = {key: value for key, value in config.to_dict().items() if key != "rope_parameters"}
    older["rope_theta"] = 1000.0
    older["rope_scaling"] = {
        ("type" if key == "rope_type" else key): value for key, value in SCALINGS[name].items()
    }
    newer = factors_from_config(config.to_dict())
    assert factors_from_config(older) == newer
    assert newer.geometry.rope_theta == 1000.0


def test_a_model_type_that_transformers_does_not_know_is_read_by_its_fields() -> None:
    factors = factors_from_config(
        {
            "model_type": "unheard-of", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
            "max_position_embeddings": 128, "rope_theta": 500.0,
            "rope_scaling": {"type": "linear", "factor": 2.0},
        }
    )  # fmt: skip
    assert factors.array().tolist() == [[2.0] * 8]
    assert factors.geometry.rope_theta == 500.0
    assert factors.target_length == 256


KIMI = {
    "model_type": "kimi_k2", "hidden_size": 7168, "num_attention_heads": 64, "num_hidden_layers": 61,
    "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "v_head_dim": 128, "max_position_embeddings": 131072, "rope_theta": 50000.0,
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
}  # fmt: skip
KIMI_SCALINGS: dict[str, dict[str, Any]] = {
    "yarn": {
        "beta_fast": 1.0, "beta_slow": 1.0, "factor": 32.0, "mscale": 1.0, "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
    },
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "llama3": {
        "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 4096,
    },
    "longrope": {
        "long_factor": [1.0 + pair for pair in range(32)], "short_factor": [1.0] * 32,
        "original_max_position_embeddings": 4096,
    },
}  # fmt: skip


@pytest.mark.parametrize("rope_type", KIMI_SCALINGS)
def test_latent_attention_of_an_unknown_type_is_read_as_the_family_that_it_is(rope_type: str) -> None:
    """Kimi-K2 is DeepSeek-V3 under another name, which transformers needs foreign code for."""
    config = {**KIMI, "rope_scaling": {"type": rope_type, **KIMI_SCALINGS[rope_type]}}
    factors = factors_from_config(config)
    known = factors_from_config({**config, "model_type": "deepseek_v3"})
    assert factors.replace(provenance=known.provenance) == known
    assert factors.geometry.head_dim == factors.geometry.rotary_dim == 64
    assert factors.array().max() > 1


@pytest.mark.parametrize(
    ("changes", "noun"),
    [
        ({"rope_scaling": {"type": "ntk-private", "factor": 4.0}}, "'ntk-private'"),
        ({"rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]}}, "mrope"),
        ({"rope_scaling": {"type": "longrope", "long_factor": [1.0] * 56, "short_factor": [1.0] * 56}}, "56"),
        ({"rope_scaling": {"type": "llama3", "factor": 4.0}}, "low_freq_factor"),
        ({"rope_theta": None, "rope_scaling": {"type": "linear", "factor": 4.0}}, "rope_theta"),
        ({}, "no scaling"),
    ],
)
def test_an_unknown_type_is_refused_for_the_true_reason(changes: dict[str, Any], noun: str) -> None:
    with pytest.raises(ModelError, match=noun) as caught:
        factors_from_config({**KIMI, **changes})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text_type", ["kimi_k2", "deepseek_v3"])
def test_the_text_part_of_an_unknown_type_is_read(text_type: str) -> None:
    text = {**KIMI, "model_type": text_type, "rope_scaling": {"type": "yarn", **KIMI_SCALINGS["yarn"]}}
    factors = factors_from_config({"model_type": "unheard-of-vl", "text_config": text})
    assert factors == factors_from_config(text)


def test_reading_a_configuration_leaves_it_as_it_was() -> None:
    scaling = {"type": "linear", "factor": 4.0}
    config = {"model_type": "llama", "rope_scaling": scaling}
    factors_from_config(config)
    assert config == {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 4.0}}


def test_the_first_name_of_longrope_is_understood() -> None:
    factors = factors_from_config(
        {
            "model_type": "phi3", "hidden_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2,
            "max_position_embeddings": 4096, "original_max_position_embeddings": 512, "rope_theta": 1000.0,
            "rope_scaling": {"type": "su", "long_factor": LONG, "short_factor": SHORT},
        }
    )  # fmt: skip
    assert factors.geometry.original_length == 512
    assert factors.rescale_factors == (tuple(LONG),)
    assert factors.attention_factor == pytest.approx((1 + np.log(8) / np.log(512)) ** 0.5)


def test_a_window_that_the_configuration_states_wrongly_can_be_overridden() -> None:
    description = describe(scaled("yarn"), original_length=1024)
    assert description.geometry.original_length == 1024
    # What the model itself computes does not change by our knowing better.
    assert description.own is not None
    assert_turns_as(description.own, scaled("yarn"), seq_len=None)


def test_dimensions_are_read_where_families_keep_them() -> None:
    neox = describe(
        GPTNeoXConfig(hidden_size=256, num_attention_heads=4, rotary_pct=0.25, rotary_emb_base=500)
    )
    assert (neox.geometry.head_dim, neox.geometry.rotary_dim, neox.geometry.rope_theta) == (64, 16, 500)
    assert describe(DeepseekV3Config(qk_rope_head_dim=32)).geometry.rotary_dim == 32
    assert describe(Llama4Config()).model_type == "llama4_text"


def test_layers_with_a_window_are_reported() -> None:
    mistral = describe(MistralConfig(sliding_window=1024, num_hidden_layers=5))
    assert (mistral.sliding_window, mistral.num_sliding_layers) == (1024, 5)
    gemma = describe(Gemma2Config(sliding_window=512, num_hidden_layers=4))
    assert (gemma.sliding_window, gemma.num_sliding_layers) == (512, 2)
    chunked = describe(Llama4Config())
    assert (chunked.sliding_window, chunked.num_sliding_layers) == (8192, 36)
    assert describe(llama()).sliding_window is None


BARE = {"rope_theta": 1e4, "hidden_size": 64, "num_hidden_layers": 2}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (GPT2Config(), "no rotary position embedding"),
        (GPTJConfig(), "table"),
        (BloomConfig(), "ALiBi"),
        (FalconConfig(alibi=True), "ALiBi"),
        (llama(rope_parameters={"rope_type": "axial", "rope_theta": 1e4}), "axial"),
        (
            PreTrainedConfig(rope_theta=1e4, hidden_size=64, num_hidden_layers=2, max_position_embeddings=8),
            "`num_attention_heads`",
        ),
        (
            PreTrainedConfig(rope_theta=1e4, hidden_size=64, num_attention_heads=4, num_hidden_layers=2),
            "--original-length",
        ),
    ],
    ids=lambda value: value.model_type if isinstance(value, PreTrainedConfig) else "",
)
def test_what_one_set_of_factors_cannot_describe_is_refused_with_its_reason(config: Any, reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        describe(config)
    assert "\n" not in str(caught.value)


def test_published_factors_just_below_one_are_read() -> None:
    """MiniCPM's released factors start at 0.9978."""
    faster = [0.9977997200264581, *LONG[1:]]
    config = llama(rope_parameters={"rope_theta": 1e4, **SCALINGS["longrope"], "long_factor": faster})
    assert factors_from_config(config.to_dict()).rescale_factors == (tuple(faster),)
    own = describe(config).own_under("as-is")
    assert own is not None
    assert_turns_as(own, config, seq_len=4096)


def test_a_scaling_that_no_factors_can_say_is_told_apart_from_none() -> None:
    scaling = {"rope_type": "yarn", "factor": 0.5, "original_max_position_embeddings": 4096}
    config = llama(rope_parameters={"rope_theta": 1e4, **scaling})
    description = describe(config)
    assert description.own is None
    assert description.own_problem is not None
    assert description.own_under("native") is None
    with pytest.raises(ModelError, match="--base native"):
        description.own_under("as-is")
    with pytest.raises(ModelError, match="below 1"):
        factors_from_config(config.to_dict())


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "`model_type`"),
        ({"model_type": "llama"}, "no scaling"),
        ({"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 0.5}}, "below 1"),
        ({"model_type": "llama", "rope_scaling": {"type": "linear", "factor": "eight"}}, "`factor`"),
        (
            {"model_type": "llama", "rope_scaling": {"type": "yarn", "factor": 4, "beta_fast": "x"}},
            "can.t be read",
        ),
        ({"model_type": "llama", "hidden_size": "wide"}, "can't be read"),
        ({"model_type": "llama", "rope_scaling": "yarn"}, "can't be read"),
        ({"model_type": "llama", "rope_scaling": {"type": "longrope", "factor": 4}}, "can't be read"),
    ],
)
def test_a_configuration_without_usable_factors_is_refused(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        factors_from_config(config)
    assert "\n" not in str(caught.value)
