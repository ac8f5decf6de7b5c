"""What the engine table says of each model type: known right, known wrong, or not known."""

import re
from pathlib import Path

import pytest
import transformers
from transformers import CONFIG_MAPPING

from ropewalk.errors import ExportError
from ropewalk.export import Served
from ropewalk.export.engine_notes import (
    SOFTMAX_READERS,
    Facts,
    known_engines,
    needs_fold,
    notes_for_folder,
    require_engine,
)
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.models.longrope_config import QUERY_KEY, SOFTMAX_KEY
from ropewalk.rope.attention_factor import longrope_attention_factor
from ropewalk.rope.schemes import scheme_factors

GEOMETRY = RopeGeometry(head_dim=8, rotary_dim=8, rope_theta=100.0, original_length=64, num_layers=2)
LONG = scheme_factors("yarn", GEOMETRY, 256).replace(attention_factor=longrope_attention_factor(4, 64))
SERVED = Served.of(FactorSet.of([LONG]), "pinned")


def notes(family, **changes):
    facts = Facts(**{"served": SERVED, "model_type": family, "family": family, **changes})
    return {note.engine: note for note in notes_for_folder(facts)}


@pytest.mark.parametrize(
    ("family", "engine", "answer"),
    [
        ("llama", "vllm", "yes"),
        ("llama", "sglang", "yes"),
        ("llama", "mlx-lm", "yes"),
        ("llama", "tensorrt-llm", "not known"),
        ("cohere", "vllm", "NO"),
        ("cohere2", "sglang", "NO"),
        ("cohere", "mlx-lm", "NO"),
        ("glm4", "vllm", "NO"),
        ("ernie4_5", "vllm", "NO"),
        ("deepseek_v3", "vllm", "NO"),
        ("glm4_moe_lite", "vllm", "NO"),
        ("deepseek_v2", "sglang", "NO"),
        ("gpt_oss", "vllm", "NO"),
        ("mixtral", "sglang", "NO"),
        ("qwen3_moe", "mlx-lm", "NO"),
        ("deepseek_v3", "transformers", "yes"),
        ("olmo2", "transformers4", "NO"),
        ("llama4_text", "transformers4", "NO"),
        ("smollm3", "vllm", "not known"),
        ("a-family-of-tomorrow", "transformers", "not known"),
    ],
)
def test_what_is_said_of_a_family(family, engine, answer):
    assert notes(family)[engine].answer == answer


def test_a_yes_names_the_version_that_was_read_or_run():
    for engine, note in notes("llama").items():
        if note.answer == "yes":
            assert re.search(r"(read|run) in \S*\d", note.what), engine


def test_a_family_that_the_engine_gets_wrong_is_said_before_the_factors():
    odd = Served.of(FactorSet.of([LONG.replace(attention_factor=1.05)]), "pinned")
    assert "fold" not in notes("cohere", served=odd)["mlx-lm"].what
    assert "fold" in notes("llama", served=odd)["mlx-lm"].what


@pytest.mark.parametrize(
    ("family", "kept", "engine", "answer"),
    [
        ("minicpm3", {SOFTMAX_KEY: 1.0}, "vllm", "not known"),
        ("minicpm3", {}, "vllm", "yes"),
        ("deepseek_v3", {SOFTMAX_KEY: 1.0}, "transformers", "yes"),
        ("deepseek_v2", {SOFTMAX_KEY: 1.0}, "transformers4", "not known"),
        ("llama", {SOFTMAX_KEY: 1.0, "max_position_embeddings": 256}, "vllm", "yes"),  # never reads it
        ("llama", {"a_key_of_tomorrow": 1}, "vllm", "not known"),
        ("ministral3", {QUERY_KEY: 0.1}, "transformers", "yes"),
        ("ministral3", {QUERY_KEY: 0.1, SOFTMAX_KEY: 1.0}, "mlx-lm", "yes"),
        ("ministral3", {QUERY_KEY: 0.1}, "vllm", "NO"),
    ],
)
def test_keys_of_other_parts_must_be_known_too(family, kept, engine, answer):
    assert notes(family, kept=kept)[engine].answer == answer


@pytest.mark.parametrize(
    ("family", "engine", "needed"),
    [
        ("llama", "any", False), ("llama", "transformers", False), ("llama", "transformers4", False),
        ("llama", "vllm", False), ("llama", "sglang", False), ("llama", "mlx-lm", True),
        ("llama", "tensorrt-llm", True), ("phi3", "transformers4", True), ("phi3", "transformers", False),
        ("cohere", "mlx-lm", False),
    ],
)  # fmt: skip
def test_a_fold_is_needed_where_only_the_attention_factor_is_wrong(family, engine, needed):
    odd = Served.of(FactorSet.of([LONG.replace(attention_factor=1.05)]), "pinned")
    assert needs_fold(Facts(served=odd, model_type=family, family=family), engine) == needed
    assert not needs_fold(Facts(served=SERVED, model_type=family, family=family), engine)


@pytest.mark.parametrize(("family", "noun"), [("smollm3", "not known"), ("cohere", "wrong")])
def test_an_export_for_an_engine_must_be_known_to_be_right(family, noun):
    with pytest.raises(ExportError, match=noun):
        require_engine(Facts(served=SERVED, model_type=family, family=family), "vllm")
    require_engine(Facts(served=SERVED, model_type="llama", family="llama"), "vllm")


def test_the_data_name_model_types_that_exist_and_say_one_thing_of_each():
    for engine, known in known_engines().items():
        assert known["version"]
        assert known["how"] in ("read", "run")
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", known["date"])
        wrong = [family for families in known["wrong"].values() for family in families]
        named = [*known["right"], *wrong]
        assert len(named) == len(set(named)), engine
        assert set(named) <= set(CONFIG_MAPPING), engine
        assert {family for families in known["with"].values() for family in families} <= set(named)


def test_families_that_read_the_softmax_scale_are_those_of_transformers():
    folder = Path(transformers.__file__).parent / "models"
    readers = {
        file.parent.name
        for file in folder.glob("*/modeling_*.py")
        if "yarn_apply_mscale(config.rope_parameters" in file.read_text("utf-8")
    }
    assert set(SOFTMAX_READERS) == readers
