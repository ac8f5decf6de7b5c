"""Which layers of a family with several rotaries factors are for, and what their rotary is."""

from typing import Any

import numpy as np
import pytest
from transformers import CONFIG_MAPPING
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ropewalk.errors import ModelError
from ropewalk.models.config_fields import Fields
from ropewalk.models.rope_config import RopeDescription, read_description
from ropewalk.models.rope_parameters import read_rope_parameters

SLIDING, FULL = "sliding_attention", "full_attention"
DEFAULT = {"rope_type": "default", "rope_theta": 1e4}


def described(family: str, **changes: Any) -> RopeDescription:
    return read_description(CONFIG_MAPPING[family].from_dict({"model_type": family, **changes}))


@pytest.mark.parametrize(
    ("family", "layer_type", "theta", "num_rotary_layers"),
    [
        ("gemma3_text", FULL, 1e6, 4),
        ("gemma3n_text", FULL, 1e6, 7),
        ("olmo3", FULL, 5e5, 8),
        ("modernbert-decoder", FULL, 1.6e5, 8),
        ("mimo_v2_flash", FULL, 5e6, 9),
        ("lfm3", FULL, 1e6, 6),
        ("laguna", FULL, 5e5, 40),
        ("zaya", "hybrid", 5e6, 40),
        ("dots3_note_text", "indexed_attention", 8e7, 13),
        ("deepseek_v4", "compress", 1.6e5, 43),
    ],
)
def test_factors_are_for_the_layers_with_global_attention(family, layer_type, theta, num_rotary_layers):
    description = described(family)
    assert (description.layer_type, description.geometry.rope_theta) == (layer_type, theta)
    assert description.num_rotary_layers == num_rotary_layers
    assert not description.all_layers_slide


def test_the_form_of_transformers_4_reads_the_same():
    linear = {"rope_type": "linear", "factor": 8.0}
    older = described("gemma3_text", rope_theta=5e5, rope_local_base_freq=2e4, rope_scaling=linear)
    nested = {FULL: {**linear, "rope_theta": 5e5}, SLIDING: {"rope_type": "default", "rope_theta": 2e4}}
    assert older == described("gemma3_text", rope_parameters=nested)
    assert older.own_type == "linear"
    yarn = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 8192}
    olmo = described("olmo3", rope_theta=5e5, rope_scaling=yarn, max_position_embeddings=65536)
    assert (olmo.own_type, olmo.geometry.original_length, olmo.own_reach) == ("yarn", 8192, 65536)


def test_a_head_has_the_size_of_its_layer_type():
    global_heads = described("gemma4_text").geometry
    assert (global_heads.head_dim, global_heads.num_pairs, global_heads.frequency_dim) == (512, 64, 512)
    indexed = described("dots3_note_text", swa_head_dim=128, swa_qk_nope_head_dim=64).geometry
    assert (indexed.head_dim, indexed.rotary_dim) == (256, 64)


def test_proportional_frequencies_are_those_of_transformers():
    config = CONFIG_MAPPING["gemma4_text"]()
    theirs, _ = ROPE_INIT_FUNCTIONS["proportional"](config, layer_type=FULL)
    ours = read_description(config).geometry.inverse_frequencies()
    np.testing.assert_allclose(ours, theirs.double().numpy()[: len(ours)], rtol=1e-6)
    assert not theirs[len(ours) :].any()


def test_the_only_layers_that_rotate_are_described_even_if_all_of_them_slide():
    beam = described("beam")
    assert (beam.layer_type, beam.sliding_window) == (SLIDING, 512)
    assert any("no rotary" in note for note in beam.window_notes)


def test_a_theta_for_each_layer():
    kinds = [FULL, SLIDING, SLIDING, FULL]
    layers = {"layer_types": kinds, "num_hidden_layers": 4}
    shared = described("granite_swa", **layers, layer_rope_theta=[0, 1e4, 1e4, 1e4])
    assert (shared.layer_type, shared.num_rotary_layers) == (None, 3)
    several = described("granite_swa", **layers, layer_rope_theta=[5e5, 1e4, 1e4, 5e5])
    assert (several.layer_type, several.geometry.rope_theta, several.num_rotary_layers) == (FULL, 5e5, 2)


def test_afmoe_rotates_its_local_layers_without_a_window_too():
    layers = {"layer_types": [SLIDING, SLIDING, FULL, SLIDING], "num_hidden_layers": 4}
    description = described("afmoe", **layers, sliding_window=None)
    assert (description.sliding_window, description.num_rotary_layers) == (None, 3)


@pytest.mark.parametrize(
    ("changes", "noun"),
    [
        ({"layer_types": [FULL, "other"]}, "ways"),
        ({"layer_types": [SLIDING, "hybrid_sliding"], "sliding_window": 8}, "ways"),
        ({"layer_types": None}, "layer_types"),
        ({"layer_types": ["conv", "mamba"]}, "rotary"),
    ],
)
def test_several_rotaries_without_exactly_one_for_the_whole_context_are_refused(changes, noun):
    names = (FULL, SLIDING, "hybrid_sliding", "other")
    config = {
        "model_type": "x", "num_hidden_layers": 2, "rope_parameters": dict.fromkeys(names, DEFAULT), **changes
    }  # fmt: skip
    with pytest.raises(ModelError, match=noun):
        read_rope_parameters(Fields(config, "x"))


@pytest.mark.parametrize(
    ("family", "noun"), [("blt", "bytes"), ("gptj", "table"), ("gemma4_unified_assistant", "drafts")]
)
def test_a_family_that_can_not_be_extended_is_refused_with_its_reason(family, noun):
    with pytest.raises(ModelError, match=noun):
        described(family)
