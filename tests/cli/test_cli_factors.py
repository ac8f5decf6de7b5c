"""`ropewalk factors`."""

import json

import pytest

from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import load_model
from ropewalk.rope.schemes import scheme_factors

GEOMETRY = RopeGeometry(head_dim=16, rotary_dim=16, rope_theta=100.0, original_length=128, num_layers=2)
YARN = scheme_factors("yarn", GEOMETRY, 1024)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "factors.json"
    YARN.save(path)
    return path


@pytest.fixture
def column(tmp_path):
    path = tmp_path / "factors.csv"
    path.write_text("".join(f"{value}\n" for value in YARN.rescale_factors[0]))
    return path


def test_show_prints_lengths_geometry_and_every_pair(ropewalk, file):
    ended = ropewalk("factors", "show", file)
    assert ended.code == 0
    assert "128 to 1024 tokens (8x)" in ended.out
    rows = [line.split() for line in ended.out.splitlines() if line[:1].isdigit()]
    assert [float(row[2]) for row in rows] == pytest.approx(YARN.rescale_factors[0], abs=1e-4)


def test_show_json_is_the_file(ropewalk, file):
    (record,) = json.loads(ropewalk("factors", "show", file, "--json").out)["records"]
    assert record == json.loads(file.read_text())


def test_show_has_a_column_a_layer_where_they_differ(ropewalk, file):
    rows = (YARN.rescale_factors[0], (8.0,) * 8)
    YARN.replace(rescale_factors=rows).save(file)
    out = ropewalk("factors", "show", file).out
    assert "layer 0" in out
    assert "layer 1" in out


def test_check_says_whether_it_fits(ropewalk, file, model):
    assert ropewalk("factors", "check", file).out.startswith(f"{file} is a valid ")
    assert f"fits {model}" in ropewalk("factors", "check", file, "--model", model).out
    ended = ropewalk("factors", "check", file, "--model", model, "--original-length", "64")
    assert ended.code == 2
    assert "original_length is 128" in ended.err


def test_a_near_window_is_shown_with_both_attention_factors(ropewalk, tmp_path):
    near_far = scheme_factors("near-far:attention_factor=1.25,near_attention_factor=1.125", GEOMETRY, 1024)
    near_far.save(tmp_path / "factors.json")
    lines = [line.split() for line in ropewalk("factors", "show", tmp_path / "factors.json").out.splitlines()]
    for line in (["near_window", "32"], ["near_attention_factor", "1.125"], ["attention_factor", "1.25"]):
        assert lines.count(line) == 1
    (record,) = json.loads(ropewalk("factors", "show", tmp_path / "factors.json", "--json").out)["records"]
    assert record == near_far.as_document()
    assert "factors file" in ropewalk("factors", "check", tmp_path / "factors.json").out


@pytest.mark.parametrize("by", ["model", "numbers"])
def test_a_csv_becomes_a_file_with_the_geometry_of_the_command_line(ropewalk, column, model, tmp_path, by):
    out = tmp_path / "converted.json"
    geometry = {
        "model": ["--model", model],
        "numbers": [
            "--rope-theta",
            "100",
            "--rotary-dim",
            "16",
            "--num-layers",
            "2",
            "--original-length",
            "128",
        ],
    }[by]
    ended = ropewalk("factors", "convert", column, *geometry, "--target-length", "8x", "--out", out)
    assert ended.code == 0, ended.err
    converted = RescaleFactors.load(out)
    assert converted.geometry == GEOMETRY
    assert converted.rescale_factors == YARN.rescale_factors
    assert converted.target_length == 1024


def test_start_tokens_and_attention_factor_of_a_csv_are_kept(ropewalk, column, model):
    ended = ropewalk(
        "factors", "convert", column, "--model", model, "--target-length", "1024",
        "--num-start-tokens", "4", "--attention-factor", "1.2",
    )  # fmt: skip
    document = json.loads(ended.out)
    assert document["num_start_tokens"] == 4
    assert document["attention_factor"] == 1.2


def test_a_csv_without_its_geometry_is_refused_and_says_what_is_missing(ropewalk, column):
    ended = ropewalk("factors", "convert", column, "--target-length", "8x", "--rope-theta", "100")
    assert ended.code == 2
    assert "--rotary-dim" in ended.err
    assert "--num-layers" in ended.err
    assert "--rope-theta" not in ended.err
    ended = ropewalk("factors", "convert", column, "--model", "./m/m", "--rotary-dim", "16")
    assert ended.code == 2


@pytest.mark.parametrize("by", ["file", "folder"])
def test_a_configuration_becomes_factors(ropewalk, tmp_path, by):
    scaling = {"rope_type": "linear", "rope_theta": 100.0, "factor": 4.0}
    config = {
        "model_type": "llama", "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2,
        "max_position_embeddings": 128, "rope_parameters": scaling,
    }  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    ended = ropewalk("factors", "convert", path if by == "file" else tmp_path)
    assert ended.code == 0, ended.err
    document = json.loads(ended.out)
    assert document["rescale_factors"] == [4.0] * 8


def test_a_corrected_window_counts_for_a_configuration(ropewalk, tmp_path):
    """A window that linear scaling is already multiplied into."""
    config = {
        "model_type": "llama", "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2,
        "max_position_embeddings": 256, "rope_theta": 100.0,
        "rope_scaling": {"type": "linear", "factor": 4.0},
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    document = json.loads(ropewalk("factors", "convert", tmp_path, "--original-length", "64").out)
    assert (document["geometry"]["original_length"], document["target_length"]) == (64, 256)


def test_a_configuration_without_scaling_is_said(ropewalk, model):
    ended = ropewalk("factors", "convert", model / "config.json")
    assert ended.code == 2
    assert "scaling" in ended.err


def test_an_unwritable_place_leaves_nothing(ropewalk, column, model, tmp_path):
    (tmp_path / "file").write_text("mine")
    arguments = ["factors", "convert", column, "--model", model, "--target-length", "8x", "--out"]
    for place in (tmp_path / "file" / "x.json", tmp_path, "/proc/ropewalk/x.json"):
        ended = ropewalk(*arguments, place)
        assert ended.code == 2
        assert len(ended.err_lines) == 1
        assert f"{place} can't be written" in ended.err
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["factors.csv", "file"]


def test_a_missing_folder_is_made(ropewalk, column, model, tmp_path):
    out = tmp_path / "new" / "x.json"
    assert (
        ropewalk("factors", "convert", column, "--model", model, "--target-length", "8x", "--out", out).code
        == 0
    )
    assert RescaleFactors.load(out).target_length == 1024


@pytest.fixture
def both(tmp_path):
    path = tmp_path / "both.json"
    FactorSet.of([YARN, scheme_factors("pi", GEOMETRY, 256)]).save(path)
    return path


def test_a_set_is_shown_entry_by_entry(ropewalk, both):
    out = ropewalk("factors", "show", both).out
    assert out.index("128 to 256 tokens") < out.index("128 to 1024 tokens")
    records = json.loads(ropewalk("factors", "show", both, "--json").out)["records"]
    assert [record["target_length"] for record in records] == [256, 1024]


def test_a_set_is_checked_whole(ropewalk, both):
    assert "valid factor set" in ropewalk("factors", "check", both).out
    document = json.loads(both.read_text())
    del document["entries"][0]
    both.write_text(json.dumps(document))
    ended = ropewalk("factors", "check", both)
    assert ended.code == 2
    assert "gap: lengths 1 to 256" in ended.err
    assert len(ended.err_lines) == 1


def test_a_set_is_measured_with_the_entry_of_each_length(ropewalk, model, books, tmp_path):
    geometry = load_model(model).geometry
    short, long = (scheme_factors(name, geometry, length) for name, length in (("pi", 256), ("ntk", 512)))
    FactorSet.of([short, long]).save(tmp_path / "set.json")
    short.save(tmp_path / "short.json")
    long.save(tmp_path / "long.json")
    files = [
        argument for name in ("set", "short", "long") for argument in ("--factors", tmp_path / f"{name}.json")
    ]
    ended = ropewalk(
        "evaluate", "perplexity", model, *files, "--text", books, "--lengths", "200,400", "--json"
    )
    values = {
        (record["factors"].split("/")[-1], record["length"]): record["value"]
        for record in json.loads(ended.out)["records"]
    }
    assert values["set.json", 200] == values["short.json", 200]
    assert values["set.json", 400] == values["long.json", 400]
    assert values["short.json", 200] != values["long.json", 200]
