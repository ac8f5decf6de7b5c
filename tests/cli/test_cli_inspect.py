"""`ropewalk inspect`."""

import json

import numpy as np

from ropewalk.factors.geometry import RopeGeometry
from ropewalk.rope.schemes import SCHEME_NAMES, scheme_factors

GEOMETRY = RopeGeometry(head_dim=16, rotary_dim=16, rope_theta=100.0, original_length=128, num_layers=2)


def test_it_shows_geometry_unfinished_pairs_and_every_scheme(ropewalk, model):
    ended = ropewalk("inspect", model)
    assert ended.code == 0
    assert ended.err == ""
    unfinished = int((GEOMETRY.turns() >= 1).sum())
    assert 0 < unfinished < 8
    assert f"{unfinished} to 7 " in ended.out
    assert all(name in ended.out for name in SCHEME_NAMES)
    rows = [line.split() for line in ended.out.splitlines() if line[:1].isdigit()]
    assert len(rows) == GEOMETRY.num_pairs
    stars = ["*" in row for row in rows]
    assert stars == [pair >= unfinished for pair in range(8)]


def test_json_is_on_stdout_alone_and_holds_the_factors(ropewalk, model):
    ended = ropewalk("inspect", model, "--target-length", "4x", "--json")
    document = json.loads(ended.out)
    assert document["geometry"] == GEOMETRY.as_dict()
    assert document["target_length"] == 512
    yarn = next(record for record in document["records"] if record["factors"] == "yarn")
    np.testing.assert_allclose(yarn["rescale_factors"], scheme_factors("yarn", GEOMETRY, 512).array()[0])


def test_near_far_has_its_window_and_both_attention_factors(ropewalk, model):
    near_far = scheme_factors("near-far", GEOMETRY, 512)
    ended = ropewalk("inspect", model, "--target-length", "4x")
    rows = [line.split() for line in ended.out.splitlines()]
    assert ["near", "window", "32"] in rows
    assert ["near", "attention", f"{near_far.near_attention_factor:.3f}"] in rows
    records = json.loads(ropewalk("inspect", model, "--target-length", "4x", "--json").out)["records"]
    by_name = {record["factors"]: record for record in records}
    assert by_name["near-far"]["near_window"] == 32
    assert by_name["near-far"]["near_attention_factor"] == near_far.near_attention_factor
    assert "near_window" not in by_name["yarn"]


def test_the_picture_is_a_png(ropewalk, model, tmp_path):
    picture = tmp_path / "new" / "factors.png"
    ended = ropewalk("inspect", model, "--out", picture)
    assert ended.code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert str(picture) in ended.err


def test_weights_are_not_read(ropewalk, model, tmp_path):
    (tmp_path / "config.json").write_bytes((model / "config.json").read_bytes())
    assert ropewalk("inspect", tmp_path).code == 0


def test_a_corrected_window_counts(ropewalk, model):
    document = json.loads(ropewalk("inspect", model, "--original-length", "64", "--json").out)
    assert document["geometry"]["original_length"] == 64
    assert document["target_length"] == 512


def test_a_model_that_reads_further_than_its_window_is_said(ropewalk, model, tmp_path):
    config = json.loads((model / "config.json").read_text())
    scaling = {"rope_type": "linear", "factor": 4.0, "rope_theta": 100.0}
    (tmp_path / "config.json").write_text(json.dumps({**config, "rope_parameters": scaling}))
    out = ropewalk("inspect", tmp_path, "--target-length", "512").out
    assert "512 tokens" in out
    assert "--base as-is" in out
    assert "already multiplied" in out
    document = json.loads(ropewalk("inspect", tmp_path, "--json").out)
    assert document["own_reach"] == 512
    assert len(document["window_notes"]) == 1


def test_layers_that_do_not_rotate_are_counted(ropewalk, tmp_path):
    config = {
        "model_type": "smollm3", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4,
        "num_hidden_layers": 4, "max_position_embeddings": 128, "rope_theta": 100.0,
        "no_rope_layers": [1, 1, 1, 0], "pad_token_id": 0,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "layers                4, of which 3 rotate" in ropewalk("inspect", tmp_path).out
    assert json.loads(ropewalk("inspect", tmp_path, "--json").out)["num_rotary_layers"] == 3
    (tmp_path / "config.json").write_text(json.dumps({**config, "no_rope_layers": [0] * 4}))
    ended = ropewalk("inspect", tmp_path)
    assert ended.code == 2
    assert len(ended.err_lines) == 1
    assert "layers" in ended.err


def test_the_layer_type_that_factors_are_for_is_shown(ropewalk, tmp_path):
    kinds = ["sliding_attention", "full_attention"]
    config = {
        "model_type": "gemma3_text", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2,
        "head_dim": 16, "max_position_embeddings": 128, "sliding_window": 16, "layer_types": kinds,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    out = ropewalk("inspect", tmp_path).out
    assert "full_attention" in out
    assert "--full-attention" not in out, "sliding layers are short by design"
    document = json.loads(ropewalk("inspect", tmp_path, "--json").out)
    assert document["layer_type"] == document["geometry"]["layer_type"] == "full_attention"
    assert (document["num_rotary_layers"], document["num_attention_layers"]) == (1, 2)
