"""The golden vectors are exact, cover every kind of factors, and can be read without Ropewalk."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load, load_file

from ropewalk.rope.frequencies import cos_sin
from ropewalk.testing.golden_vectors import (
    DESCRIPTION,
    VECTORS,
    golden_sets,
    golden_vectors,
    largest_difference,
)

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_golden_vectors.py"
GOLDEN = golden_vectors()
LAST = 4_194_304


def named(golden):
    return f"{golden.name}-{golden.factors.target_length}"


@pytest.fixture(scope="module")
def made():
    spec = importlib.util.spec_from_file_location("make_golden_vectors", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make()


@pytest.mark.parametrize("golden", GOLDEN, ids=named)
def test_our_tables_agree(golden):
    assert largest_difference(golden, *cos_sin(golden.factors, golden.positions)) < 1e-8


@pytest.mark.parametrize("golden", GOLDEN, ids=named)
def test_float32_angles_do_not(golden):
    """The comparison finds errors of this size."""
    factors = golden.factors
    inverse = torch.tensor(factors.geometry.inverse_frequencies(), dtype=torch.float32)
    inverse = inverse / torch.tensor(factors.rescale_factors[0], dtype=torch.float32)
    angles = golden.positions.float().unsqueeze(-1) * inverse
    scale = factors.attention_factor
    assert largest_difference(golden, angles.cos() * scale, angles.sin() * scale) > 1e-3


@pytest.mark.parametrize(
    "changed", [{"num_start_tokens": 29}, {"num_start_tokens": 27}, {"attention_factor": 1.19}]
)
def test_a_small_change_of_a_setting_is_found(changed):
    golden = next(golden for golden in GOLDEN if golden.name == "start-tokens")
    wrong = cos_sin(golden.factors.replace(**changed), golden.positions)
    assert largest_difference(golden, *wrong) > 1e-4


def test_what_they_cover():
    geometries = [golden.factors.geometry for golden in GOLDEN]
    assert {geometry.rope_theta for geometry in geometries} == {1e4, 5e5, 1e6}
    assert {geometry.rotary_dim for geometry in geometries} >= {32, 64, 96, 128}
    assert any(geometry.rotary_dim < geometry.head_dim for geometry in geometries)
    assert sum(golden.factors.num_start_tokens > 0 for golden in GOLDEN) >= 4
    assert all(golden.positions.max() == LAST and golden.positions.min() == 0 for golden in GOLDEN)
    assert [len(factor_set.entries) for _, factor_set in golden_sets().values()].count(2) == 1
    assert VECTORS.stat().st_size + DESCRIPTION.stat().st_size < 300_000


def test_positions_are_on_both_sides_of_every_edge():
    for golden in GOLDEN:
        factors, positions = golden.factors, set(golden.positions.tolist())
        edges = (factors.num_start_tokens, factors.geometry.original_length, factors.target_length)
        assert {place for edge in edges if edge for place in (edge - 1, edge)} <= positions


def test_the_script_makes_these_files(made):
    assert made[DESCRIPTION] == DESCRIPTION.read_bytes()
    ours, shipped = load(made[VECTORS]), load_file(VECTORS)
    assert ours.keys() == shipped.keys()
    for name, tensor in ours.items():
        np.testing.assert_array_equal(tensor, shipped[name], err_msg=name, strict=True)


def test_they_are_read_without_ropewalk():
    """As docs/golden-vectors.md describes."""
    tensors = load_file(VECTORS)
    document = json.loads(DESCRIPTION.read_text(encoding="utf-8"))
    for part in document["sets"]:
        for entry in part["factor_set"]["entries"]:
            factors = entry["factors"]
            theta, dim = factors["geometry"]["rope_theta"], factors["geometry"]["rotary_dim"]
            key = f"{part['name']}.{factors['target_length']}"
            positions = tensors[f"{key}.positions"][:, None]
            inverse = theta ** (-np.arange(0, dim, 2) / dim)
            rescaled = np.where(positions < factors["num_start_tokens"], 1.0, factors["rescale_factors"])
            cos = np.cos(positions * inverse / rescaled) * factors["attention_factor"]
            np.testing.assert_allclose(cos, tensors[f"{key}.cos"], rtol=0, atol=1e-8)
