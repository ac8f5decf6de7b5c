import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.errors import FactorsError
from ropewalk.factors.factor_set import FactorSet, load_set
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import Provenance, RescaleFactors, load_factors

GEOMETRY = RopeGeometry(head_dim=8, rotary_dim=8, rope_theta=625.0, original_length=256, num_layers=3)


def entry(length, **changes):
    given = {
        "geometry": GEOMETRY,
        "target_length": length,
        "rescale_factors": [1.0, 1.5, 2.0, 1.0 + length / 1024],
        "num_start_tokens": length % 7,
        "attention_factor": 1 + length / 10_000,
        "provenance": Provenance(strategy=f"for {length}", seed=length),
    }
    return RescaleFactors.single(**{**given, **changes})


SET = FactorSet.of(map(entry, (2048, 256, 512)))


@pytest.mark.parametrize(
    ("length", "served_by"),
    [(1, 256), (255, 256), (256, 256), (257, 512), (511, 512), (512, 512), (513, 2048), (2048, 2048)],
)
def test_the_shortest_entry_that_fits_serves(length, served_by):
    assert SET.for_length(length) == entry(served_by)


@given(lengths=st.sets(st.integers(1, 400), min_size=1, max_size=6))
def test_the_rule_at_every_boundary(lengths):
    chosen = FactorSet.of(map(entry, lengths))
    for length in lengths:
        assert chosen.for_length(length).target_length == length
        if length > 1:
            assert chosen.for_length(length - 1).target_length >= length - 1
        longer = [other for other in lengths if other > length]
        if longer:
            assert chosen.for_length(length + 1).target_length == min(longer)
    with pytest.raises(FactorsError, match=str(max(lengths))):
        chosen.for_length(max(lengths) + 1)


@pytest.mark.parametrize("length", [0, -1])
def test_a_sequence_has_a_token(length):
    with pytest.raises(FactorsError, match="at least 1"):
        SET.for_length(length)


def test_a_file_reads_back_bit_for_bit(tmp_path):
    SET.save(tmp_path / "set.json")
    assert FactorSet.load(tmp_path / "set.json") == SET
    assert load_set(tmp_path / "set.json") == SET
    assert SET.longest == entry(2048)
    assert SET.lengths == (256, 512, 2048)


def test_plain_factors_are_a_set_with_one_entry(tmp_path):
    entry(512).save(tmp_path / "factors.json")
    (tmp_path / "bare.csv").write_text("1.0\n1.5\n2.0\n4.0\n")
    assert FactorSet.load(tmp_path / "factors.json") == FactorSet(entries=(entry(512),))
    bare = load_set(tmp_path / "bare.csv", geometry=GEOMETRY, target_length=1024)
    assert bare.lengths == (1024,)


def test_where_one_is_asked_for_a_set_says_what_it_is(tmp_path):
    SET.save(tmp_path / "set.json")
    for read in (RescaleFactors.load, load_factors):
        with pytest.raises(FactorsError, match="is a factor set"):
            read(tmp_path / "set.json")


def test_an_entry_taken_out_of_a_file_is_a_file(tmp_path):
    document = json.loads(SET.to_json())
    text = json.dumps(document["entries"][1]["factors"])
    assert RescaleFactors.from_json(text, "taken out") == entry(512)


@pytest.mark.parametrize(
    ("entries", "noun"),
    [
        ((), "no entry"),
        ((entry(512), entry(512)), "512"),
        ((entry(512), entry(256)), "ascending"),
        (
            (entry(256), entry(512, geometry=RopeGeometry(**{**GEOMETRY.as_dict(), "rope_theta": 1e4}))),
            "rope_theta",
        ),
    ],
)
def test_entries_that_make_no_set(entries, noun):
    with pytest.raises(FactorsError) as error:
        FactorSet(entries=entries)
    assert noun in str(error.value)
    assert "\n" not in str(error.value)


def edited(change):
    document = json.loads(SET.to_json())
    change(document)
    return json.dumps(document)


def first_factors(document):
    return document["entries"][0]["factors"]


def swap(document):
    document["entries"].reverse()


def retarget(document):
    document["entries"][1]["factors"]["target_length"] = 600


def other_theta(document):
    first_factors(document)["geometry"]["rope_theta"] = 500.0


@pytest.mark.parametrize(
    ("change", "noun"),
    [
        (lambda d: d["entries"].pop(1), "gap"),
        (lambda d: d["entries"].pop(0), "gap"),
        (lambda d: d["entries"].insert(1, d["entries"][0]), "256"),
        (swap, "gap"),
        (lambda d: d["entries"][1]["serves"].update({"from": 200}), "200"),
        (retarget, "600"),
        (other_theta, "fingerprint"),
        (lambda d: d["entries"][2]["serves"].update({"to": "2048"}), "entries[2].serves.to"),
        (lambda d: d["entries"][2].pop("serves"), "entries[2].serves"),
        (lambda d: d["entries"][2].update({"factors": None}), "entry 3"),
        (lambda d: first_factors(d).update({"format": "ropewalk.factor-set"}), "entry 1"),
        (lambda d: first_factors(d).update({"rescale_factors": [-0.5, 1.0, 1.0, 1.0]}), "0.01"),
        (lambda d: d.update({"entries": {}}), "entries"),
        (lambda d: d.update({"entries": []}), "no entry"),
        (lambda d: d.update({"note": 1}), "note"),
        (lambda d: d.update({"version": 2}), "version"),
        (lambda d: d.update({"version": 3}), "version"),
        (lambda d: d.update({"version": None}), "version"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_in_one_line(change, noun):
    with pytest.raises(FactorsError) as error:
        FactorSet.from_json(edited(change), "set.json")
    assert noun in str(error.value)
    assert "set.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_wrong_within_an_entry_is_found_there():
    with pytest.raises(FactorsError) as error:
        FactorSet.from_json(edited(lambda d: first_factors(d)["rescale_factors"].append("8")), "set.json")
    assert "set.json is not a valid factor set: entry 1 is not a valid factors file" in str(error.value)
    assert "rescale_factors[4]: " in str(error.value)


def test_every_truncation_is_refused():
    text = SET.to_json()
    for end in itertools.chain(range(0, len(text) - 2, 97), [len(text) - 3]):
        with pytest.raises(FactorsError):
            FactorSet.from_json(text[:end], "cut.json")


def near_far(length):
    return entry(length, num_start_tokens=0, near_window=64)


@pytest.mark.parametrize("others", [(), (128,)])
def test_near_far_factors_serve_above_the_window_only(others, tmp_path):
    factors = FactorSet.of([near_far(2048), *map(entry, others)])
    assert factors.lengths == (*others, 256, 2048)
    assert factors.for_length(256) == near_far(2048).unscaled
    assert factors.for_length(257) == near_far(2048)
    near_far(2048).save(tmp_path / "factors.json")
    assert load_set(tmp_path / "factors.json").for_length(256) == near_far(2048).unscaled


@pytest.mark.parametrize("length", [256, 512])
def test_a_plain_entry_for_the_window_stays_the_only_one(length):
    entries = (entry(length), near_far(2048))
    assert FactorSet.of(entries) == FactorSet(entries=entries)


@pytest.mark.parametrize("others", [(), (128,)])
def test_a_set_with_near_far_factors_within_the_window_is_refused(others):
    with pytest.raises(FactorsError, match="window"):
        FactorSet(entries=(*map(entry, others), near_far(2048)))


def test_a_set_of_one_file_is_alone():
    assert FactorSet.of([near_far(2048)]).is_alone
    assert FactorSet.of([entry(2048)]).is_alone
    assert not SET.is_alone
    assert not FactorSet.of([entry(256), near_far(2048)]).is_alone


def test_one_near_far_entry_is_enough_to_refuse_a_set():
    with pytest.raises(FactorsError, match="near window"):
        FactorSet.of([near_far(512), entry(2048)]).require_plain("An export")
    SET.require_plain("An export")


def test_a_set_with_near_far_factors_is_version_2(tmp_path):
    factors = FactorSet.of([entry(256), near_far(2048)])
    document = factors.as_document()
    assert document["version"] == 2
    assert [one["factors"]["version"] for one in document["entries"]] == [1, 2]
    factors.save(tmp_path / "set.json")
    assert FactorSet.load(tmp_path / "set.json") == factors
    with pytest.raises(FactorsError, match="version"):
        FactorSet.from_document({**document, "version": 1}, "set.json")
    assert SET.as_document()["version"] == 1
