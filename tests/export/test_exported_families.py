"""A family's own rotary dictionary, exported: plain transformers computes what installed factors compute.

Every family that works was tried by `benchmarks/exported_families.py`, whose data and comparison this uses.
"""

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest
import transformers
from family_exports import families, require_exported
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import CONFIG_MAPPING, PreTrainedTokenizerFast

from ropewalk.errors import ModelError
from ropewalk.export import Served
from ropewalk.export.manifest import MANIFEST
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.longrope_config import (
    LENGTH_KEYS,
    QUERY_KEY,
    ROTATION_KEYS,
    SOFTMAX_KEY,
    kept_keys,
    longrope_keys,
    with_longest,
    with_rope_part,
)
from ropewalk.models.model import load_model
from ropewalk.models.training_checkpoint import save_pinned
from ropewalk.rope.schemes import scheme_factors
from ropewalk.verify.export_config import check_configuration

PLAIN = ("cohere", "dbrx", "glm4", "gpt_neox", "granite", "stablelm", "llama4_text", "fuyu")  # of all layouts
SLOW = {"longcat_flash", "phi4_multimodal"}  # large, whatever their sizes; the benchmark tries them
CASES = [(family, scaling) for family in sorted(families.REAL) for scaling in families.REAL[family]]
CASES = [case for case in CASES if case[0] not in SLOW] + [(family, {}) for family in PLAIN]
GEOMETRY = RopeGeometry(head_dim=16, rotary_dim=16, rope_theta=1e4, original_length=64, num_layers=2)
FACTORS = scheme_factors("yarn", GEOMETRY, 256)
SOFTMAX = {"rope_type": "yarn", "factor": 40.0, "mscale_all_dim": 0.7, "original_max_position_embeddings": 64}

pytestmark = pytest.mark.filterwarnings("ignore")  # of families' own code


@pytest.mark.parametrize(
    ("family", "scaling"), CASES, ids=[f"{family}-{s.get('rope_type', 'plain')}" for family, s in CASES]
)
def test_plain_transformers_computes_what_is_installed(family, scaling, tmp_path):
    require_exported(family, scaling, tmp_path)


def test_no_default_of_a_family_is_left_untried():
    """Families whose own configuration has a scaling, or keys that are not the rotation's."""
    for family in families.working_families():
        own = getattr(CONFIG_MAPPING[family]().get_text_config(decoder=True), "rope_parameters", None) or {}
        nested = [value for value in own.values() if isinstance(value, dict)]
        for one in nested or [{} if None in own.values() else own]:
            scaled = one.get("rope_type", "default") not in ("default", "proportional")
            assert family in families.REAL or not (scaled or one.keys() - ROTATION_KEYS), own


def test_every_key_that_models_read_is_known():
    """A key that a later transformers reads must be looked at: does it keep its meaning?"""
    folder = Path(transformers.__file__).parent / "models"
    read = re.compile(r"""rope_(?:parameters|params|scaling)(?:_dict)?(?:\.get\(|\[)\s*["'](\w+)["']""")
    found = {key for file in folder.glob("*/modeling_*.py") for key in read.findall(file.read_text("utf-8"))}
    assert {"factor", SOFTMAX_KEY, QUERY_KEY} <= found
    # The sections of positions in time, height and width keep their meaning as they are.
    kept_as_it_is = {"mrope_section", "mrope_interleaved"}
    layer_types = {"full_attention", "sliding_attention", "main", "compress"}  # of nested dictionaries
    assert found - ROTATION_KEYS - set(LENGTH_KEYS) <= {SOFTMAX_KEY, QUERY_KEY} | kept_as_it_is | layer_types


def test_the_softmax_scale_stays_the_same_number():
    def scale(keys):
        return 0.1 * keys.get(SOFTMAX_KEY, 0.0) * math.log(keys["factor"]) + 1

    new = longrope_keys(FACTORS, FACTORS, kept=kept_keys(SOFTMAX, FACTORS, "it"))["rope_parameters"]
    assert new["factor"] == 4.0  # ours, and not 40
    assert scale(new) == pytest.approx(scale(SOFTMAX), rel=1e-12)
    longer = FACTORS.replace(target_length=1024)
    again = longrope_keys(longer, longer, kept=kept_keys(new, longer, "it"))["rope_parameters"]
    assert scale(again) == pytest.approx(scale(SOFTMAX), rel=1e-12)


@pytest.mark.parametrize("changes", [{"rope_type": "default"}, {"factor": 1.0}, {SOFTMAX_KEY: 0}])
def test_a_softmax_scale_that_the_model_does_not_apply_is_not_written(changes):
    assert SOFTMAX_KEY not in kept_keys({**SOFTMAX, **changes}, FACTORS, "it")


@pytest.mark.parametrize(
    ("changes", "target"), [({SOFTMAX_KEY: "1"}, 256), ({"factor": float("inf")}, 256), ({}, 64)]
)
def test_a_softmax_scale_that_can_not_be_stated_is_refused(changes, target):
    with pytest.raises(ModelError, match=SOFTMAX_KEY):
        kept_keys({**SOFTMAX, **changes}, FACTORS.replace(target_length=target), "it")


def test_keys_that_nobody_here_knows_are_kept():
    own = {
        "rope_type": "default",
        "rope_theta": 1e4,
        "mrope_section": [2, 3, 3],
        "max_position_embeddings": 64,
    }
    kept = kept_keys(own, FACTORS, "it")
    assert kept == {"mrope_section": [2, 3, 3], "max_position_embeddings": 256}
    for form in ("rope_parameters", "rope_scaling"):
        assert longrope_keys(FACTORS, FACTORS, kept=kept)[form]["mrope_section"] == [2, 3, 3]


def test_a_query_scale_of_another_window_is_refused():
    own = {"rope_type": "yarn", QUERY_KEY: 0.1, "factor": 16.0, "original_max_position_embeddings": 32}
    with pytest.raises(ModelError, match=QUERY_KEY):
        kept_keys(own, FACTORS, "it")


def read_served(folder):
    """The factors that an exported folder's `ropewalk.json` states."""
    document = json.loads((folder / MANIFEST).read_text())
    short, long = (RescaleFactors.from_document(document[kind], kind) for kind in ("short", "long"))
    return Served(mode=document["mode"], short=short, long=long)


@pytest.fixture
def softmax_scaled(tmp_path):
    return families.export_family("deepseek_v3", *families.REAL["deepseek_v3"], tmp_path)


def test_verify_compares_what_was_kept(softmax_scaled):
    out = softmax_scaled.out
    assert check_configuration(out, read_served(out)).is_right
    config = json.loads((out / "config.json").read_text())
    for form in ("rope_parameters", "rope_scaling"):
        del config[form][SOFTMAX_KEY]
    (out / "config.json").write_text(json.dumps(config))
    check = check_configuration(out, read_served(out))
    assert not check.is_right
    assert SOFTMAX_KEY in check.found


def test_a_start_checkpoint_for_another_trainer_keeps_them_too(softmax_scaled, tmp_path):
    words = Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(softmax_scaled.base)
    loaded = load_model(softmax_scaled.base)
    save_pinned(loaded, read_served(softmax_scaled.out).long, tmp_path / "start")
    start = dataclasses.replace(softmax_scaled, out=tmp_path / "start")
    assert families.difference(families.read_export(start), softmax_scaled.wanted) < families.SAME


def test_every_length_is_raised_by_whatever_name():
    lengths = dict.fromkeys(LENGTH_KEYS, 64)
    config = {"model_type": "x", "hidden_size": 64, **lengths}
    assert with_longest(config, 256) == {"model_type": "x", "hidden_size": 64, **dict.fromkeys(lengths, 256)}
    nested = with_longest({"model_type": "x", "text_config": config, "seq_length": None}, 256)
    assert nested["text_config"]["model_max_length"] == 256
    assert nested["seq_length"] is None


def test_a_text_part_that_leaves_its_defaults_out_is_found():
    config = {"model_type": "llava", "text_config": {"model_type": "llama"}}
    changed = with_rope_part(config, longrope_keys(FACTORS, FACTORS))
    assert changed["text_config"]["rope_theta"] == 1e4
    assert "rope_theta" not in changed
