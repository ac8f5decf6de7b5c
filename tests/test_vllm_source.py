"""The plugin against vLLM's own, unchanged files: make engines ENGINES=vllm."""

import importlib.util
import json
import math
import os
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.longrope_config import longrope_keys
from ropewalk.rope.frequencies import cos_sin
from ropewalk.vllm_plugin import FACTORS_NAME

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SOURCES = [Path(part) for part in os.environ.get("ROPEWALK_VLLM_SOURCE", "none").split(os.pathsep)]
PYTHONS = os.environ.get("ROPEWALK_VLLM_PYTHON", "").split(os.pathsep)

pytestmark = pytest.mark.engine("vllm")

GEOMETRY = RopeGeometry(head_dim=16, rotary_dim=16, rope_theta=10000.0, original_length=64, num_layers=2)
COMPUTED = math.sqrt(1 + math.log(32) / math.log(64))
SHORT = RescaleFactors.single(
    geometry=GEOMETRY, target_length=64, rescale_factors=[1 + 0.1 * i for i in range(8)], num_start_tokens=2
)
LONG = RescaleFactors.single(
    geometry=GEOMETRY,
    target_length=2048,
    rescale_factors=[1 + 4.3 * i for i in range(8)],
    num_start_tokens=12,
    attention_factor=1.0625,
)
PLAIN = LONG.replace(num_start_tokens=0, attention_factor=COMPUTED)
POSITIONS = [0, 1, 2, 11, 12, 13, 62, 63]
FAR = [*POSITIONS, 64, 65, 1023, 2046, 2047]


def write_checkpoint(folder, long, *, short=None, factors=None, **scaling):
    """A configuration as an export has it, and what lies beside it."""
    folder.mkdir()
    keys = longrope_keys(long, long)
    changed = {"short_factor": list((short or long).rescale_factors[0]), **scaling}
    for kind in ("rope_parameters", "rope_scaling"):
        # The two that only vLLM reads are a case of their own here.
        plain = {key: value for key, value in keys[kind].items() if not key.endswith("_mscale")}
        keys[kind] = {**plain, **changed}
    config = LlamaConfig(
        hidden_size=64, num_attention_heads=4, num_hidden_layers=2, intermediate_size=64, vocab_size=96
    ).to_dict()
    config |= {"architectures": ["LlamaForCausalLM"], **keys}
    (folder / "config.json").write_text(json.dumps(config))
    if factors is not None:
        (folder / FACTORS_NAME).write_text(factors)
    return str(folder)


def requests(place):
    place.mkdir()
    both = FactorSet(entries=(SHORT, LONG)).to_json()
    other = LONG.replace(rescale_factors=((2.0,) * 8,))
    folders = {
        "plain": write_checkpoint(place / "plain", PLAIN),
        "stated": write_checkpoint(place / "stated", LONG),
        "mscale": write_checkpoint(place / "mscale", LONG, short=SHORT, short_mscale=1.0, long_mscale=1.0625),
        "ours": write_checkpoint(place / "ours", LONG, short=SHORT, factors=both),
        "foreign": write_checkpoint(place / "foreign", PLAIN, factors='{"factors": [2, 3, 5]}'),
        "binary": write_checkpoint(place / "binary", PLAIN, factors="\x00\x01"),
        "stale": write_checkpoint(place / "stale", LONG, factors=FactorSet(entries=(other,)).to_json()),
        "broken": write_checkpoint(place / "broken", LONG, factors=both[:-200]),
    }
    asked = []

    def ask(name, folder, max_model_len, *, has_plugin, positions=FAR, dtype="float32"):
        asked.append(
            {"name": name, "folder": folders[folder], "max_model_len": max_model_len, "positions": positions}
            | {"has_plugin": has_plugin, "dtype": dtype}
        )

    for folder in folders:
        ask(f"{folder}-default", folder, None, has_plugin=False, positions=POSITIONS)
        ask(f"{folder}-long", folder, 2048, has_plugin=False)
        ask(f"{folder}-long-plugin", folder, 2048, has_plugin=True)
    ask("plain-default-plugin", "plain", None, has_plugin=True, positions=POSITIONS)
    ask("ours-short-plugin", "ours", 64, has_plugin=True, positions=POSITIONS)
    ask("ours-between-plugin", "ours", 65, has_plugin=True)
    ask("ours-bfloat16-plugin", "ours", 2048, has_plugin=True, dtype="bfloat16")
    ask("plain-too-long", "plain", 2049, has_plugin=False)
    return asked


def source_class():
    spec = importlib.util.spec_from_file_location("vllm_source", BENCHMARKS / "vllm_source.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["vllm_source"] = module  # where a dataclass looks for its own module
    spec.loader.exec_module(module)
    return module.Source


@pytest.fixture(scope="module", params=range(len(SOURCES)), ids=[source.name for source in SOURCES])
def answered(request, tmp_path_factory):
    source = source_class()(SOURCES[request.param], PYTHONS[request.param])
    place = tmp_path_factory.mktemp("vllm")
    document, tensors = source.ask(requests(place / "checkpoints"), place / "asked")
    assert document["versions"]["vllm"] == source.version
    return document["answers"], tensors


def table(answered, name):
    answers, tensors = answered
    assert "error" not in answers[name], answers[name]
    return torch.cat((tensors[f"{name}.cos"], tensors[f"{name}.sin"]), dim=-1)


def exact(factors, positions=FAR, dtype=torch.float32):
    return torch.cat(cos_sin(factors, torch.tensor(positions)), dim=-1).to(torch.float32).to(dtype)


def test_without_the_plugin_vllm_chooses_when_it_starts_and_stops_at_the_window(answered):
    answers, _ = answered
    assert answers["plain-default"]["max_model_len"] == 64
    assert answers["plain-default"]["use_long_rope"] is False
    assert answers["plain-long"]["use_long_rope"] is True
    assert answers["plain-long"]["table_shape"] == [64 + 2048, 16]
    assert not any(answers[f"{name}-long"]["is_patched"] for name in ("plain", "ours"))
    assert "2049" in answers["plain-too-long"]["error"]


def test_without_the_plugin_a_pinned_checkpoint_with_the_computed_attention_factor_is_right(answered):
    torch.testing.assert_close(table(answered, "plain-long"), exact(PLAIN), rtol=0, atol=2e-4)
    torch.testing.assert_close(table(answered, "plain-default"), exact(PLAIN, POSITIONS), rtol=0, atol=1e-5)


def test_without_the_plugin_vllm_computes_its_own_attention_factor_unless_two_are_given(answered):
    """`attention_factor` and `factor` are not read; n-hat never is."""
    answers, _ = answered
    assert answers["stated-long"]["long_mscale"] == pytest.approx(COMPUTED)
    assert answers["stated-long"]["short_mscale"] == pytest.approx(COMPUTED)
    assert answers["mscale-long"]["long_mscale"] == 1.0625
    assert answers["mscale-long"]["short_mscale"] == 1.0
    without = LONG.replace(num_start_tokens=0)
    torch.testing.assert_close(table(answered, "mscale-long"), exact(without), rtol=0, atol=2e-4)
    torch.testing.assert_close(
        table(answered, "mscale-default"),
        exact(SHORT.replace(num_start_tokens=0), POSITIONS),
        rtol=0,
        atol=1e-5,
    )
    assert (table(answered, "ours-long") - exact(LONG)).abs().max() > 0.05


def test_the_plugin_gives_the_entry_for_max_model_len_bit_for_bit(answered):
    assert torch.equal(table(answered, "ours-long-plugin"), exact(LONG))
    assert torch.equal(table(answered, "ours-short-plugin"), exact(SHORT, POSITIONS))
    assert torch.equal(table(answered, "ours-between-plugin"), exact(LONG))


def test_the_plugin_rounds_to_the_dtype_of_the_model(answered):
    found = table(answered, "ours-bfloat16-plugin")
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, exact(LONG, dtype=torch.bfloat16))


def test_the_plugin_says_what_it_serves(answered):
    (message,) = answered[0]["ours-short-plugin"]["messages"]
    assert message.startswith("INFO Ropewalk: ")
    assert message.endswith("entry for up to 64 tokens, 2 start tokens, attention factor 1.")


@pytest.mark.parametrize("name", ["plain", "stated", "mscale", "foreign", "binary"])
def test_the_plugin_leaves_every_other_checkpoint_as_it_is(answered, name):
    answers, _ = answered
    assert answers[f"{name}-long-plugin"]["is_patched"]
    assert answers[f"{name}-long-plugin"]["messages"] == []
    assert torch.equal(table(answered, f"{name}-long-plugin"), table(answered, f"{name}-long"))


def test_the_default_length_too(answered):
    assert torch.equal(table(answered, "plain-default-plugin"), table(answered, "plain-default"))


@pytest.mark.parametrize(
    ("name", "said"),
    [("stale", "pair 0"), ("broken", "JSON")],
)
def test_a_factor_set_that_does_not_belong_stops_vllm_in_one_line(answered, name, said):
    error = answered[0][f"{name}-long-plugin"]["error"]
    assert said in error
    assert "\n" not in error
