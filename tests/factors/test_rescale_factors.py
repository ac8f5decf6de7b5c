import json
import math
import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.errors import FactorsError, ModelError
from ropewalk.factors.factor_set import FactorSet, load_set
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import Provenance, RescaleFactors, load_factors

GEOMETRY = RopeGeometry(head_dim=8, rotary_dim=8, rope_theta=625.0, original_length=256, num_layers=3)
ROW = [1.0, 1.5, 4.0, 8.0]


def make(**changes):
    settings = {"geometry": GEOMETRY, "target_length": 2048, "rescale_factors": ROW, **changes}
    return RescaleFactors.single(**settings)


def one_line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


@given(
    row=st.lists(st.floats(1, 1e6), min_size=4, max_size=4),
    num_start_tokens=st.integers(0, 4096),
    attention_factor=st.floats(0.01, 10),
    seed=st.none() | st.integers(0, 2**40),
)
def test_a_file_reads_back_bit_for_bit(tmp_path_factory, row, num_start_tokens, attention_factor, seed):
    factors = make(
        rescale_factors=row,
        num_start_tokens=num_start_tokens,
        attention_factor=attention_factor,
        provenance=Provenance(
            model="a model", seed=seed, versions={"ropewalk": "0"}, settings={"a": [1, None]}
        ),
    )
    path = tmp_path_factory.mktemp("factors") / "factors.json"
    factors.save(path)
    assert RescaleFactors.load(path) == factors


def test_a_file_says_which_layer_type_it_is_for(tmp_path):
    geometry = RopeGeometry(**{**GEOMETRY.as_dict(), "layer_type": "full_attention"})
    make(geometry=geometry).save(tmp_path / "f.json")
    read = RescaleFactors.load(tmp_path / "f.json")
    assert read.geometry.layer_type == "full_attention"
    with pytest.raises(FactorsError, match="layer_type"):
        read.require_geometry(GEOMETRY, "another model")


def test_one_vector_a_layer_is_kept(tmp_path):
    rows = tuple(tuple(value + layer for value in ROW) for layer in range(3))
    factors = RescaleFactors(geometry=GEOMETRY, target_length=512, rescale_factors=rows)
    factors.save(tmp_path / "f.json")
    read = RescaleFactors.load(tmp_path / "f.json")
    assert read.per_layer
    assert read.array().shape == (3, 4)
    assert read == factors


@pytest.mark.parametrize(
    ("change", "noun"),
    [
        ({"rescale_factors": [1.0, 2.0, 3.0]}, "3 factors"),
        ({"rescale_factors": [*ROW, 9.0]}, "5 factors"),
        ({"rescale_factors": [1.0, math.nan, 4.0, 8.0]}, "pair 1 is nan"),
        ({"rescale_factors": [1.0, math.inf, 4.0, 8.0]}, "pair 1 is inf"),
        ({"rescale_factors": [0.0, 1.5, 4.0, 8.0]}, "0.01"),
        ({"rescale_factors": [-1.0, 1.5, 4.0, 8.0]}, "0.01"),
        ({"num_start_tokens": -1}, "num_start_tokens"),
        ({"num_start_tokens": 1.5}, "num_start_tokens"),
        ({"target_length": 0}, "target_length"),
        ({"attention_factor": 0.0}, "attention_factor"),
        ({"attention_factor": math.nan}, "attention_factor"),
    ],
)
def test_values_that_break_a_rule_are_refused(change, noun):
    with pytest.raises(FactorsError) as error:
        make(**change)
    assert noun in one_line(error)


def near_far(**changes):
    return make(**{"near_window": 64, "near_attention_factor": 1.2, "attention_factor": 1.1, **changes})


def test_near_far_factors_have_a_plain_part_for_each_distance():
    factors = near_far()
    assert factors.is_near_far
    assert factors.near == make(rescale_factors=[1.0] * 4, attention_factor=1.2)
    assert factors.far == make(attention_factor=1.1)


def test_the_parts_of_plain_factors_are_the_factors():
    factors = make(num_start_tokens=4, attention_factor=1.1)
    assert not factors.is_near_far
    assert factors.near == factors.far == factors


@pytest.mark.parametrize(
    ("change", "noun"),
    [
        ({"near_window": 256}, "near_window"),
        ({"near_window": -1}, "near_window"),
        ({"near_window": 64.0}, "near_window"),
        ({"near_window": True}, "near_window"),
        ({"num_start_tokens": 4}, "num_start_tokens"),
        ({"target_length": 256}, "target length"),
        ({"near_attention_factor": 0.0}, "near_attention_factor"),
        ({"near_attention_factor": math.nan}, "near_attention_factor"),
        ({"near_window": 0}, "near_attention_factor"),
    ],
)
def test_near_far_values_that_break_a_rule_are_refused(change, noun):
    with pytest.raises(FactorsError) as error:
        near_far(**change)
    assert noun in one_line(error)


@given(window=st.integers(1, 255), near=st.floats(0.01, 100), target=st.integers(257, 2**30))
def test_a_near_far_file_reads_back_bit_for_bit(tmp_path_factory, window, near, target):
    factors = near_far(near_window=window, near_attention_factor=near, target_length=target)
    path = tmp_path_factory.mktemp("factors") / "factors.json"
    factors.save(path)
    assert RescaleFactors.load(path) == load_factors(path) == factors


def test_only_near_far_factors_state_the_near_values():
    for factors, version in ((make(), 1), (near_far(), 2)):
        document = factors.as_document()
        assert document["version"] == version
        for values in (document, factors.as_values()):
            assert ("near_window" in values) == ("near_attention_factor" in values) == (version == 2)


@pytest.mark.parametrize("key", ["near_window", "near_attention_factor"])
def test_a_file_has_the_near_values_of_its_version(key):
    document = near_far().as_document()
    with pytest.raises(FactorsError) as error:
        RescaleFactors.from_document({**document, "version": 1}, "f.json")
    assert "near" in one_line(error)
    del document[key]
    with pytest.raises(FactorsError) as error:
        RescaleFactors.from_document(document, "f.json")
    assert key in one_line(error)


def test_a_near_window_of_0_is_written_as_version_1():
    document = {**near_far().as_document(), "near_window": 0, "near_attention_factor": 1.0}
    with pytest.raises(FactorsError, match="near_window"):
        RescaleFactors.from_document(document, "f.json")


def test_where_one_rotation_is_needed_near_far_factors_are_refused():
    for refuse in (
        lambda: near_far().require_plain("An export"),
        lambda: near_far().as_window(),
        lambda: near_far().compose(make()),
        lambda: make().compose(near_far()),
    ):
        with pytest.raises(FactorsError) as error:
            refuse()
        assert "near window" in one_line(error)
    make(num_start_tokens=4).require_plain("An export")


def test_near_far_factors_apply_above_the_window_and_plain_ones_at_each_length():
    assert near_far().at_length(256) is None
    assert near_far().at_length(257) == near_far().at_length(4096) == near_far()
    assert make().at_length(1) == make()


def test_factors_within_the_window_leave_the_rotation_unchanged():
    factors = near_far(provenance=Provenance(model="a model", objective_value=2.0)).unscaled
    assert factors.target_length == 256
    assert factors.array().tolist() == [[1.0] * 4]
    assert (factors.attention_factor, factors.near_window) == (1.0, 0)
    assert (factors.provenance.model, factors.provenance.objective_value) == ("a model", None)


def test_two_vectors_for_three_layers_are_refused():
    with pytest.raises(FactorsError, match="3 layers"):
        RescaleFactors(geometry=GEOMETRY, target_length=512, rescale_factors=(tuple(ROW), tuple(ROW)))


def edited(**changes):
    return json.dumps({**json.loads(make().to_json()), **changes})


@pytest.mark.parametrize(
    ("text", "noun"),
    [
        (make().to_json()[:-40], "JSON"),
        ("[" * 100_000, "JSON"),
        ("[1, 2]", "factors file"),
        ("{}", "factors file"),
        (edited(version=2), "near_window"),
        (edited(version=3), "version"),
        (edited(version="1"), "version"),
        (edited(rescale_factors=[1.0, 2.0]), "2 factors"),
        (edited(rescale_factors=[]), "0 "),
        (edited(rescale_factors=["1", 1, 1, 1]), "rescale_factors"),
        (edited(rescale_factors=[math.nan, 1, 1, 1]), "finite"),
        (edited(surprise=1), "surprise"),
        (edited(target_length=2048.5), "target_length"),
        (edited(geometry={**GEOMETRY.as_dict(), "rope_theta": 10000.0}), "fingerprint"),
        (edited(geometry={**GEOMETRY.as_dict(), "rotary_dim": 7}), "rotary_dim"),
        (edited(provenance=None), "provenance"),
    ],
)
def test_files_that_break_a_rule_are_refused_in_one_line(tmp_path, text, noun):
    path = tmp_path / "f.json"
    path.write_text(text)
    with pytest.raises(FactorsError) as error:
        load_factors(path)
    assert noun in one_line(error)
    assert str(path) in str(error.value)


def test_a_pickle_is_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    for name, content in (("a.json", pickle.dumps(Trap())), ("b.json", pickle.dumps(Trap(), protocol=0))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FactorsError) as error:
            load_factors(tmp_path / name)
        one_line(error)
    assert not (tmp_path / "sprung").exists()


def test_what_is_missing_or_a_folder_is_named(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(FactorsError) as error:
            load_factors(path)
        assert str(path) in one_line(error)


def test_the_public_csv_form_needs_its_geometry(tmp_path):
    path = tmp_path / "f.csv"
    path.write_text("1.0\n1.5\n\n4.0,\n8\n")
    factors = load_factors(path, geometry=GEOMETRY, target_length=2048)
    assert factors.array().tolist() == [ROW]
    with pytest.raises(FactorsError, match="target length"):
        load_factors(path)
    path.write_text("1.0\nhello\n")
    with pytest.raises(FactorsError, match="line 2"):
        load_factors(path, geometry=GEOMETRY, target_length=2048)
    path.write_text("")
    with pytest.raises(FactorsError, match="empty"):
        load_factors(path, geometry=GEOMETRY, target_length=2048)


def test_factors_for_another_geometry_are_refused_with_what_differs():
    other = RopeGeometry(**{**GEOMETRY.as_dict(), "rope_theta": 10000.0, "original_length": 4096})
    with pytest.raises(FactorsError) as error:
        make().require_geometry(other, "big-model")
    text = one_line(error)
    assert "rope_theta is 625, not 10000" in text
    assert "original_length is 256, not 4096" in text
    make().require_geometry(GEOMETRY, "the same")


def test_composition_multiplies_and_keeps_the_models_own_geometry():
    own_geometry = RopeGeometry(**{**GEOMETRY.as_dict(), "original_length": 64})
    own = make(geometry=own_geometry, rescale_factors=[1, 1, 2, 4], attention_factor=1.1, num_start_tokens=4)
    total = make(attention_factor=1.2).compose(own)
    assert total.array().tolist() == [[1.0, 1.5, 8.0, 32.0]]
    assert total.attention_factor == pytest.approx(1.32)
    assert total.num_start_tokens == 4
    assert total.geometry == own_geometry
    assert total.target_length == 2048


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "f.json"
    make().save(path)
    before = path.read_bytes()

    def no_space(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        make(num_start_tokens=8).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["f.json"]


def test_values_can_not_be_changed_in_place():
    factors = make()
    factors.array()[:] = 7
    assert factors.array().tolist() == [ROW]
    with pytest.raises(AttributeError):
        factors.target_length = 1
    assert isinstance(factors.rescale_factors[0][0], float)
    assert make(rescale_factors=np.array(ROW)) == factors


@pytest.mark.parametrize(
    ("change", "noun"),
    [
        ({"target_length": 10**30}, "target_length"),
        ({"target_length": 10**5000}, "target_length"),
        ({"num_start_tokens": 10**30}, "num_start_tokens"),
        ({"rescale_factors": [1.0, 1.5, 4.0, 1e308]}, "pair 3"),
        ({"attention_factor": 1e308}, "attention_factor"),
        ({"attention_factor": 1e-300}, "attention_factor"),
    ],
)
def test_values_beyond_all_models_are_refused(change, noun):
    with pytest.raises(FactorsError) as error:
        make(**change)
    assert noun in one_line(error)


def test_the_largest_values_are_read(tmp_path):
    factors = make(target_length=2**30, num_start_tokens=2**30, rescale_factors=[1.0, 1.5, 4.0, 2.0**30])
    factors.save(tmp_path / "f.json")
    assert RescaleFactors.load(tmp_path / "f.json") == factors


@pytest.mark.parametrize(
    ("old", "new", "noun"),
    [
        ('"num_start_tokens": 0', '"num_start_tokens": 0, "num_start_tokens": 4', "num_start_tokens"),
        ('"target_length": 2048', f'"target_length": {"9" * 5000}', "digits"),
        ('"settings": {}', f'"settings": {{"a": {"[" * 5000}{"]" * 5000}}}', "nested"),
        ('"settings": {}', f'"settings": {{"a": {"[" * 100}{"]" * 100}}}', "nested"),
        ('"settings": {}', '"settings": {"a": 1e999}', "too large"),
        ('"settings": {}', '"settings": {"a": NaN}', "NaN"),
        ('"model": null', '"model": "\\ud83d"', "surrogate"),
    ],
)
def test_a_file_that_only_a_lenient_reader_takes(tmp_path, old, new, noun):
    text = make().to_json()
    assert old in text
    path = tmp_path / "f.json"
    path.write_text(text.replace(old, new))
    for load in (RescaleFactors.load, FactorSet.load, load_factors, load_set):
        with pytest.raises(FactorsError) as error:
            load(path)
        assert noun in one_line(error)


def test_factors_for_less_than_the_window_serve_only_beside_longer_ones(tmp_path):
    short = make(target_length=128)
    short.save(tmp_path / "f.json")
    (tmp_path / "f.csv").write_text("1\n1.5\n4\n8\n")
    assert RescaleFactors.load(tmp_path / "f.json") == short
    assert FactorSet(entries=(short, make())).lengths == (128, 2048)
    for load in (FactorSet.load, load_factors, load_set):
        with pytest.raises(FactorsError, match="target length"):
            load(tmp_path / "f.json")
    with pytest.raises(FactorsError, match="target length"):
        load_factors(tmp_path / "f.csv", geometry=GEOMETRY, target_length=128)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "huge"])
def test_what_is_no_file_of_factors_is_not_read(tmp_path, kind):
    path = tmp_path / "f.json"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(2**31)
    with pytest.raises(FactorsError):
        load_factors(path)


@pytest.mark.parametrize("name", ["head_dim", "rotary_dim", "original_length", "num_layers"])
def test_a_geometry_beyond_all_models_is_refused(name):
    with pytest.raises(ModelError, match=name):
        RopeGeometry(**{**GEOMETRY.as_dict(), "rotary_dim": 8, name: 10**30})
