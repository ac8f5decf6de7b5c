import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.errors import ModelError
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.rope.schemes import scheme_factors

LLAMA2 = RopeGeometry(head_dim=128, rotary_dim=128, rope_theta=10000.0, original_length=4096, num_layers=32)


def test_the_fastest_pair_turns_once_in_two_pi_tokens():
    assert LLAMA2.inverse_frequencies()[0] == 1.0
    assert LLAMA2.turns()[0] == pytest.approx(4096 / (2 * math.pi), rel=1e-15)
    assert LLAMA2.turns(8192)[0] == 2 * LLAMA2.turns()[0]


@given(theta=st.floats(1.5, 1e8), pairs=st.integers(1, 64))
def test_frequencies_fall_from_one_towards_one_over_theta(theta, pairs):
    geometry = RopeGeometry(
        head_dim=2 * pairs, rotary_dim=2 * pairs, rope_theta=theta, original_length=256, num_layers=1
    )
    frequencies = geometry.inverse_frequencies()
    assert frequencies.shape == (pairs,)
    assert frequencies[0] == 1.0
    assert np.all(np.diff(frequencies) < 0)
    assert np.all(frequencies > 1 / theta)


@pytest.mark.parametrize(
    "change",
    [
        {"rotary_dim": 127},
        {"rotary_dim": 130},
        {"rotary_dim": 0},
        {"rope_theta": 1.0},
        {"rope_theta": math.nan},
        {"original_length": 0},
        {"original_length": True},
        {"num_layers": 2.5},
        {"layer_type": "full attention"},
        {"frequency_dim": 128},
        {"frequency_dim": 130},
        {"frequency_dim": 127, "rotary_dim": 64},
    ],
)
def test_numbers_that_no_model_has_are_refused(change):
    name = next(iter(change))
    with pytest.raises(ModelError, match=name):
        RopeGeometry(**{**LLAMA2.as_dict(), **change})


def test_a_fingerprint_follows_every_number_and_nothing_else():
    same = RopeGeometry(head_dim=128, rotary_dim=128, rope_theta=10000, original_length=4096, num_layers=32)
    assert same.fingerprint() == LLAMA2.fingerprint()
    for name, value in LLAMA2.as_dict().items():
        changed = RopeGeometry(**{**LLAMA2.as_dict(), name: 64 if name == "rotary_dim" else value * 2})
        assert changed.fingerprint() != LLAMA2.fingerprint(), name


def test_files_of_models_with_one_rotary_keep_their_bytes_and_their_fingerprint():
    assert list(LLAMA2.as_dict()) == [
        "head_dim", "rotary_dim", "rope_theta", "original_length", "num_layers"
    ]  # fmt: skip
    assert LLAMA2.fingerprint() == "2e157bdfddf72c9f9ef26f501a3dcfdcaee626955ca72ba7fc0bfa40042d4617"


def test_a_layer_type_and_a_frequency_dimension_belong_to_the_geometry():
    one_type = RopeGeometry(**{**LLAMA2.as_dict(), "layer_type": "full_attention"})
    proportional = RopeGeometry(**{**LLAMA2.as_dict(), "rotary_dim": 64, "frequency_dim": 128})
    assert len({g.fingerprint() for g in (LLAMA2, one_type, proportional)}) == 3
    assert one_type.differences(LLAMA2) == ["layer_type is full_attention, not None"]
    assert proportional.inverse_frequencies().tolist() == LLAMA2.inverse_frequencies().tolist()[:32]
    assert proportional.pair_of_turns(3.0) == LLAMA2.pair_of_turns(3.0)


def test_differences_name_each_number_whole():
    other = RopeGeometry(**{**LLAMA2.as_dict(), "original_length": 1048576, "rope_theta": 625.0})
    assert LLAMA2.differences(other) == [
        "rope_theta is 10000, not 625",
        "original_length is 4096, not 1048576",
    ]
    assert LLAMA2.differences(LLAMA2) == []


@given(
    theta=st.floats(100, 1e6), pairs=st.integers(2, 64), window=st.integers(128, 8192), s=st.integers(2, 64)
)
def test_after_interpolation_the_tuned_window_is_like_the_first(theta, pairs, window, s):
    """Every pair slowed alike shows in s L tokens what it showed in L, so the next extension is the same."""
    geometry = RopeGeometry(
        head_dim=2 * pairs, rotary_dim=2 * pairs, rope_theta=theta, original_length=window, num_layers=1
    )
    tuned = scheme_factors("pi", geometry, s * window).as_window()
    assert tuned.original_length == s * window
    assert tuned.turns() == pytest.approx(geometry.turns())
    for turns in (1e-3, 0.7, 1.0, 5.0, 32.0, 1e5):
        assert tuned.pair_of_turns(turns) == pytest.approx(geometry.pair_of_turns(turns), abs=1e-6)
    for scheme in ("yarn:truncate=0", "yarn-paper", "llama3", "ntk"):
        again = scheme_factors(scheme, tuned, 8 * s * window).array()
        first = scheme_factors(scheme, geometry, 8 * window).array()
        assert again == pytest.approx(first, rel=1e-6)


def test_a_pair_that_was_left_alone_has_shown_more_in_the_tuned_window():
    geometry = RopeGeometry(head_dim=64, rotary_dim=64, rope_theta=1e4, original_length=256, num_layers=2)
    rows = tuple(tuple([1.0] * 16 + [last] * 16) for last in (4.0, 16.0))
    factors = RescaleFactors(geometry=geometry, target_length=2048, rescale_factors=rows)
    tuned = factors.as_window()
    assert tuned.turns()[:16] == pytest.approx(8 * geometry.turns()[:16])
    assert tuned.turns()[16:] == pytest.approx(geometry.turns()[16:]), "of layers, the geometric mean"
    assert tuned.pair_of_turns(float(tuned.turns()[5])) == pytest.approx(5)
    assert tuned.pair_of_turns(1e9) < 0
    assert tuned.pair_of_turns(1e-9) > 31
