"""Whatever a config.json holds, reading it ends in a description or in one line, and soon."""

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig

from ropewalk.cli.main import run
from ropewalk.errors import ModelError
from ropewalk.models.config_fields import Fields, require_countable
from ropewalk.models.rope_config import describe, factors_from_config

SIZES = {
    "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 2,
    "head_dim": 16, "max_position_embeddings": 256, "rope_theta": 1e4, "vocab_size": 64,
    "intermediate_size": 64, "num_labels": 2, "sliding_window": None, "layer_types": None,
    "model_max_length": 512, "partial_rotary_factor": 1.0, "original_max_position_embeddings": 64,
}  # fmt: skip
SCALINGS: list[dict[str, Any]] = [
    {"type": "linear", "factor": 4.0},
    {"type": "dynamic", "factor": 4.0, "alpha": 8.0},
    {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_fast": 32, "mscale": 1.0},
    {"type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    {"type": "longrope", "long_factor": [4.0] * 8, "short_factor": [1.0] * 8, "long_mscale": 1.2},
]
CONFIGS = [
    {**SIZES, "model_type": model_type, "rope_scaling": scaling}
    for model_type in ("llama", "mistral", "hunyuan_v1_dense", "unheard-of")
    for scaling in SCALINGS
]
ODD: list[Any] = [
    None, True, False, 0, 1, -1, 0.5, 1e-300, 1e300, float("inf"), float("nan"), 10**9, 10**18, 2**64,
    10**400, -(10**400), "", "x", "yarn", [], [1], [None], {}, {"a": {}}, {"rope_type": "yarn"}, [{}, {}],
]  # fmt: skip


def deep(levels: int) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for _ in range(levels):
        nested = {"a": nested}
    return nested


@settings(max_examples=150, derandomize=True)
@given(config=st.sampled_from(CONFIGS), odd=st.sampled_from(ODD), data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_a_value_of_any_type_and_size_ends_in_factors_or_in_one_line(
    config: dict[str, Any], odd: Any, data: st.DataObject
) -> None:
    config = copy.deepcopy(config)
    part_of = {**config, "model_type": "unheard-of"}
    config = data.draw(st.sampled_from([config, {"model_type": "unheard-of-vl", "text_config": part_of}]))
    config = copy.deepcopy(config)
    text = config.get("text_config", config)
    part = data.draw(st.sampled_from([text, text["rope_scaling"]]))
    part[data.draw(st.sampled_from(sorted(part)))] = odd
    message = ""
    try:
        factors_from_config(config)
    except ModelError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 600


@pytest.mark.parametrize(
    ("model_type", "changes", "noun"),
    [
        ("bamba", {"num_hidden_layers": 10**12}, "num_hidden_layers"),  # a list of all is made at once
        ("llama", {"num_labels": 10**12}, "num_labels"),
        ("llama", {"num_hidden_layers": 5000}, "num_layers"),
        ("llama", {"head_dim": 10**9}, "head_dim"),
        ("llama", {"max_position_embeddings": 10**12}, "original_length"),
        ("llama", {"rope_theta": 10**17}, "rope_theta"),
        ("llama", {"rope_theta": 10**400}, "rope_theta"),
        ("unheard-of", {"head_dim": None, "hidden_size": 10**4000}, "hidden_size"),
        ("unheard-of", {"rope_scaling": {"type": "linear", "factor": 10**5000}}, "digits"),
        ("unheard-of", {"layer_types": ["full_attention"]}, "layer_types"),
        ("unheard-of", {"rope_scaling": deep(5000)}, "layer_types"),
        ("llama", {"rope_scaling": deep(5000)}, "recursion|type of layer"),
    ],
)
def test_what_no_model_has_is_refused_before_anything_is_made_of_it(
    model_type: str, changes: dict[str, Any], noun: str
) -> None:
    with pytest.raises(ModelError, match=noun):
        factors_from_config({**SIZES, "model_type": model_type, "rope_scaling": SCALINGS[0], **changes})


def test_a_vocabulary_of_any_size_costs_nothing() -> None:
    """Only the rotary is made, so a description does not depend on memory."""
    config = LlamaConfig(vocab_size=10**10, hidden_size=65536, num_attention_heads=512)
    assert describe(config).geometry.head_dim == 128


def test_fields_are_read_by_type() -> None:
    fields = Fields({"a": 4.0, "b": 2.5, "c": True, "d": 0, "e": [1, 2], "f": [1, "x"], "g": -3}, "it")
    assert (fields.whole("a"), fields.number("b"), fields.size("d"), fields.size("z")) == (4, 2.5, None, None)
    assert fields.numbers("e") == [1.0, 2.0]
    assert fields.entries("e", 1) == [1]
    for read, field in (
        (fields.whole, "b"), (fields.number, "c"), (fields.size, "g"), (fields.numbers, "f"),
        (fields.dictionary, "a"), (fields.required, "z"), (fields.numbers, "z"),
    ):  # fmt: skip
        with pytest.raises(ModelError, match=f"it can't be extended.*`{field}`"):
            read(field)
    with pytest.raises(ModelError, match="`e`"):
        fields.entries("e", 3)


def test_only_counts_are_limited_before_reading() -> None:
    require_countable({"vocab_size": 10**9, "n_positions": 10**9, "num_layers": 10**5, "x": [{}]}, "it")
    with pytest.raises(ModelError, match="num_experts"):
        require_countable({"text_config": {"num_experts": 10**9}}, "it")


@pytest.mark.parametrize("text", ['{"a":' * 100_000, '{"hidden_size": ' + "9" * 5000 + "}", "[]", "1"])
def test_a_file_that_is_no_configuration_is_one_line(text: str, tmp_path: Any, capsys: Any) -> None:
    (tmp_path / "config.json").write_text(text)
    for command in (["inspect", str(tmp_path)], ["factors", "convert", str(tmp_path)]):
        assert run(command) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_broken_value_in_a_file_is_one_line(tmp_path: Any, capsys: Any) -> None:
    config = {**SIZES, "model_type": "llama", "rope_scaling": {"type": "linear", "factor": "x" * 10_000}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert run(["inspect", str(tmp_path)]) == 2
    assert "factor" in capsys.readouterr().err
