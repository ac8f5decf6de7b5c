"""Both forms of the rotary's keys: for each version, each family with ways of its own, and after a save."""

import json

import pytest
from transformers import CONFIG_MAPPING, LlamaConfig, Phi3Config, PhimoeConfig

from ropewalk.errors import ModelError
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.models.longrope_config import (
    is_computed,
    kept_keys,
    longrope_keys,
    restore_keys,
    with_rope_part,
)
from ropewalk.models.rope_config import read_description
from ropewalk.models.transformers4_config import rewrite_keys
from ropewalk.rope.attention_factor import longrope_attention_factor
from ropewalk.rope.schemes import scheme_factors

GEOMETRY = RopeGeometry(head_dim=16, rotary_dim=16, rope_theta=100.0, original_length=64, num_layers=2)
COMPUTED = longrope_attention_factor(4, 64)
LONG = scheme_factors("yarn", GEOMETRY, 256).replace(attention_factor=COMPUTED)
SHORT = LONG.replace(target_length=64, rescale_factors=((1.0,) * 8,))
SMALL = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 2}


def test_a_save_of_transformers_5_is_restored_to_the_same_keys():
    config = {"model_type": "llama", **SMALL, **longrope_keys(SHORT, LONG)}
    saved = json.loads(LlamaConfig.from_dict(config).to_json_string(use_diff=False))
    assert "rope_scaling" not in saved
    assert "rope_theta" not in saved
    restored = restore_keys(saved)
    keys = longrope_keys(SHORT, LONG)
    assert {name: restored[name] for name in keys} == keys
    assert restore_keys(restored) == restored


def test_a_plain_rotary_is_restored_too():
    saved = {"model_type": "llama", **SMALL, "max_position_embeddings": 64}
    restored = restore_keys({**saved, "rope_parameters": {"rope_type": "default", "rope_theta": 625.0}})
    assert restored["rope_theta"] == 625.0
    assert "rope_scaling" not in restored


@pytest.mark.parametrize("model_type", ["phi3", "phi4_multimodal"])
def test_families_that_allow_three_keys_get_three(model_type):
    keys = longrope_keys(SHORT, LONG, model_type)
    assert set(keys["rope_scaling"]) == {"type", "short_factor", "long_factor"}
    stated = longrope_keys(SHORT, LONG.replace(attention_factor=1.3), model_type)
    assert stated["rope_scaling"]["attention_factor"] == 1.3  # version 4 refuses it aloud


def test_phi3_reads_three_keys_as_it_reads_all():
    config = Phi3Config.from_dict({**SMALL, **longrope_keys(SHORT, LONG, "phi3")})
    parameters = config.rope_parameters
    assert parameters["rope_type"] == "longrope"
    assert parameters["rope_theta"] == 100.0
    assert parameters["original_max_position_embeddings"] == 64
    assert parameters["long_factor"] == list(LONG.rescale_factors[0])


def test_phimoe_is_told_an_attention_factor_for_each_set():
    keys = longrope_keys(SHORT, LONG, "phimoe")
    assert keys["rope_scaling"]["short_mscale"] == keys["rope_scaling"]["long_mscale"] == COMPUTED
    assert PhimoeConfig.from_dict({**SMALL, **keys}).rope_parameters["long_mscale"] == COMPUTED


def test_a_share_of_the_head_is_told_in_both_places_and_comes_out_whole():
    for head_dim, rotary_dim in ((80, 32), (96, 24), (100, 70), (7 * 6, 6)):
        geometry = RopeGeometry(**{**GEOMETRY.as_dict(), "head_dim": head_dim, "rotary_dim": rotary_dim})
        long = scheme_factors("yarn", geometry, 256)
        keys = longrope_keys(long, long)
        for place in (keys, keys["rope_scaling"], keys["rope_parameters"]):
            assert int(head_dim * place["partial_rotary_factor"]) == rotary_dim


def test_gpt_neox_has_names_of_its_own_in_version_4():
    geometry = RopeGeometry(**{**GEOMETRY.as_dict(), "head_dim": 64})
    long = scheme_factors("yarn", geometry, 256)
    keys = longrope_keys(long, long, "gpt_neox")
    assert (keys["rotary_emb_base"], keys["rotary_pct"]) == (100.0, 0.25)


def test_a_multi_modal_configuration_is_changed_in_its_text_part():
    config = {
        "model_type": "llava",
        "text_config": {"model_type": "llama", **SMALL, "rope_scaling": {"x": 1}},
    }
    changed = with_rope_part(config, longrope_keys(SHORT, LONG))
    assert changed["text_config"]["rope_theta"] == 100.0
    assert "rope_theta" not in changed
    assert config["text_config"]["rope_scaling"] == {"x": 1}


FULL, SLIDING = "full_attention", "sliding_attention"
NESTED = {
    SLIDING: {"rope_type": "default", "rope_theta": 1e4},
    FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 100.0},
}


def nested_keys(model_type: str, own: dict = NESTED, layer_type: str = FULL) -> dict:
    geometry = RopeGeometry(**{**GEOMETRY.as_dict(), "layer_type": layer_type})
    long = LONG.replace(geometry=geometry)
    return longrope_keys(long, long, model_type, kept_keys(own, long, "it"))


@pytest.mark.parametrize(("family", "theta"), [("gemma3_text", "rope_local_base_freq"), ("olmo3", None)])
def test_factors_of_a_layer_type_leave_the_others_as_they_are(family, theta):
    keys = nested_keys(family)
    assert keys["rope_parameters"][SLIDING] == NESTED[SLIDING]
    assert keys["rope_parameters"][FULL] == keys["rope_scaling"]
    assert (keys["rope_theta"], keys["original_max_position_embeddings"]) == (100.0, 64)
    assert theta is None or keys[theta] == 1e4
    read = CONFIG_MAPPING[family].from_dict({"model_type": family, **SMALL, **keys})
    assert read.rope_parameters[SLIDING] == NESTED[SLIDING]
    assert read.rope_parameters[FULL]["long_factor"] == list(LONG.rescale_factors[0])
    assert "factor" in read.rope_parameters[FULL]


def test_a_family_of_which_version_4_has_no_form_gets_that_of_version_5_alone():
    keys = nested_keys("deepseek_v4", {"main": NESTED[SLIDING], "compress": NESTED[FULL]}, "compress")
    assert set(keys) == {"rope_parameters", "max_position_embeddings"}


def test_a_save_with_a_dictionary_for_each_layer_type_is_restored():
    keys = nested_keys("gemma3_text")
    saved = {"model_type": "gemma3_text", **SMALL, "max_position_embeddings": 256}
    saved["rope_parameters"] = keys["rope_parameters"]
    assert {name: restore_keys(saved)[name] for name in keys} == keys
    unknown = {**saved, "model_type": "laguna"}
    assert restore_keys(unknown) == unknown


def test_factors_of_a_layer_type_without_a_dictionary_of_its_own_are_refused():
    with pytest.raises(ModelError, match="full_attention"):
        nested_keys("granite_swa", {"rope_type": "default", "rope_theta": 100.0})


def test_a_family_whose_code_reads_no_scaling_is_refused():
    with pytest.raises(ModelError, match="recurrent_gemma"):
        longrope_keys(LONG, LONG, "recurrent_gemma")


def test_pairs_of_a_proportional_rotary_that_do_not_rotate_are_read_back():
    geometry = RopeGeometry(**{**GEOMETRY.as_dict(), "rotary_dim": 8, "frequency_dim": 16})
    long = scheme_factors("yarn", geometry, 256)
    keys = longrope_keys(long, long)
    assert len(keys["rope_parameters"]["long_factor"]) == 8
    own = read_description(LlamaConfig.from_dict({**SMALL, **keys})).own
    assert (own.geometry, own.rescale_factors) == (geometry, long.rescale_factors)


def test_per_layer_factors_are_refused():
    with pytest.raises(ModelError, match="per layer"):
        longrope_keys(SHORT, LONG.replace(rescale_factors=LONG.rescale_factors * 2))


def test_what_engines_compute():
    assert is_computed(LONG, LONG)
    assert not is_computed(LONG.replace(attention_factor=COMPUTED + 1e-4), LONG)


@pytest.mark.parametrize(("content", "noun"), [(None, "config.json"), ("[1]", "JSON object"), ("{", "JSON")])
def test_a_folder_without_a_configuration(tmp_path, content, noun):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=noun):
        rewrite_keys(tmp_path)
