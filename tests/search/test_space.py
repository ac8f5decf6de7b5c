import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.errors import FactorsError, SettingError
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.rope.attention_factor import longrope_attention_factor, yarn_attention_factor
from ropewalk.rope.schemes import CLOSED_FORMS, scheme_factors
from ropewalk.search.space import (
    START_TOKENS,
    Candidate,
    SearchSpace,
    attention_choices,
    start_token_choices,
)

GEOMETRY = RopeGeometry(head_dim=16, rotary_dim=16, rope_theta=625.0, original_length=256, num_layers=2)
SPACE = SearchSpace(geometry=GEOMETRY, target_length=2048)


def test_the_bounds_are_those_of_the_paper():
    assert SPACE.extension_ratio == 8
    lowest, highest = (SPACE.candidate(np.full(8, level), 0, 1.0) for level in (0, SPACE.highest_level))
    assert set(lowest.rescale_factors) == {1.0}
    assert set(highest.rescale_factors) == {10.0}, "1.25 times 8"
    assert SPACE.start_tokens == (0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256)
    second = SPACE.candidate(np.full(8, 7), 0, 1.0)
    assert set(second.rescale_factors) == {1.07}, "clean decimals"


@given(ratio=st.integers(257, 600_000), level=st.floats(0, 1))
def test_levels_and_lambdas_are_one_to_one(ratio, level):
    space = SearchSpace(geometry=GEOMETRY, target_length=ratio)
    levels = np.full(8, int(level * space.highest_level))
    candidate = space.candidate(levels, 0, 1.0)
    assert (space.levels(candidate) == levels).all()
    assert space.contains(candidate)
    assert 1 <= candidate.rescale_factors[0] <= 1.25 * ratio / 256 + 1e-6


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_a_closed_form_snaps_to_the_nearest_grid_point(name):
    factors = scheme_factors(name, GEOMETRY, 2048)
    candidate = SPACE.snap(factors)
    assert SPACE.contains(candidate)
    assert candidate.num_start_tokens == 0
    assert np.abs(np.array(candidate.rescale_factors) - factors.array()[0]).max() <= 0.005 + 1e-9


def test_factors_with_a_near_window_do_not_snap():
    with pytest.raises(FactorsError, match="near window"):
        SPACE.snap(scheme_factors("near-far", GEOMETRY, 2048))


def test_snapping_takes_the_nearest_attention_factor():
    space = SearchSpace(geometry=GEOMETRY, target_length=2048, attention_factors=(1.0, 1.1, 1.2, 1.3))
    assert space.snap(scheme_factors("yarn", GEOMETRY, 2048)).attention_factor == 1.2


GOOD = {"rescale_factors": (1.0, 1.01, 1.5, 2.0, 2.0, 3.0, 9.99, 10.0), "num_start_tokens": 4}


@pytest.mark.parametrize(
    "changes",
    [
        {"rescale_factors": (1.0,) * 7},
        {"rescale_factors": (1.5, 1.4, *GOOD["rescale_factors"][2:])},
        {"rescale_factors": (*GOOD["rescale_factors"][:7], 10.01)},
        {"rescale_factors": (0.99, *GOOD["rescale_factors"][1:])},
        {"rescale_factors": (1.005, *GOOD["rescale_factors"][1:])},
        {"num_start_tokens": 3},
        {"attention_factor": 1.1},
    ],
)
def test_what_is_outside_is_not_contained(changes):
    good = {"attention_factor": 1.0, **GOOD}
    assert SPACE.contains(Candidate(**good))
    assert not SPACE.contains(Candidate(**{**good, **changes}))


def test_a_candidate_becomes_factors_for_the_space():
    candidate = Candidate(attention_factor=1.0, **GOOD)
    factors = SPACE.to_factors(candidate)
    assert factors.rescale_factors == (candidate.rescale_factors,)
    assert (factors.geometry, factors.target_length, factors.num_start_tokens) == (GEOMETRY, 2048, 4)


def test_a_candidate_survives_json():
    candidate = Candidate(attention_factor=1.0, **GOOD)
    assert Candidate.from_dict(candidate.as_dict()) == candidate


@pytest.mark.parametrize("target_length", [256, 100, 0])
def test_a_target_not_above_the_window_is_refused(target_length):
    with pytest.raises(SettingError, match="256") as error:
        SearchSpace(geometry=GEOMETRY, target_length=target_length)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"start_tokens": (1, 2)},
        {"start_tokens": (0, -1)},
        {"attention_factors": ()},
        {"attention_factors": (0.0,)},
        {"step": 0.0},
        {"ceiling": 0.9},
    ],
)
def test_a_space_that_makes_no_sense_is_refused(changes):
    with pytest.raises(SettingError):
        SearchSpace(geometry=GEOMETRY, target_length=2048, **changes)


def test_attention_choices():
    assert attention_choices("1", GEOMETRY, 2048) == (1.0,)
    assert attention_choices(1.25, GEOMETRY, 2048) == (1.25,)
    (longrope,) = attention_choices("longrope", GEOMETRY, 2048)
    assert longrope == pytest.approx(math.sqrt(1 + math.log(8) / math.log(256)))
    searched = attention_choices("search", GEOMETRY, 2048)
    assert searched[0] == 1.0
    assert searched[1] == 1.005
    assert searched[-1] >= 1 + 0.2 * math.log(8) > searched[-2]


@pytest.mark.parametrize(("window", "target"), [(256, 2048), (256, 131072), (4096, 8192), (4, 8)])
def test_a_searched_attention_factor_may_be_1_yarn_s_and_that_of_engines(window, target):
    geometry = RopeGeometry(
        head_dim=24, rotary_dim=24, rope_theta=10000.0, original_length=window, num_layers=1
    )
    lowest, *_, highest = attention_choices("search", geometry, target)
    ratio = target / window
    assert lowest == 1.0
    assert highest >= max(yarn_attention_factor(ratio), longrope_attention_factor(ratio, window))


@pytest.mark.parametrize("setting", ["0", "-1", "nan", "inf", "free", ""])
def test_attention_factors_that_make_no_sense_are_refused(setting):
    with pytest.raises(SettingError, match="attention factor"):
        attention_choices(setting, GEOMETRY, 2048)


def test_start_token_choices():
    assert start_token_choices("search") == START_TOKENS
    assert start_token_choices("none") == (0,)
    with pytest.raises(SettingError, match="`search` or `none`"):
        start_token_choices("8")


def test_the_largest_lambda_is_on_the_grid_whatever_rounding_says():
    """(1.45 - 1) / 0.01 is a little below 45 in floats."""
    geometry = RopeGeometry(head_dim=16, rotary_dim=16, rope_theta=625.0, original_length=1000, num_layers=2)
    space = SearchSpace(geometry=geometry, target_length=1160)
    assert space.highest_level == 45
    assert space.candidate(np.full(8, 45), 0, 1.0).rescale_factors[-1] == 1.45


def test_coordinates_are_clipped_to_the_grid_s_ends_and_to_the_nearest_order():
    space = SearchSpace(geometry=GEOMETRY, target_length=2048, step=0.4, attention_factors=(1.0, 1.1, 1.2))
    ends = space.clip(np.log([0.1] * 4 + [100.0] * 4 + [5.0]))
    assert np.exp(ends) == pytest.approx([1.0] * 4 + [9.8] * 4 + [1.2]), "10 is between two levels"
    assert math.exp(space.clip(np.log([2.0] * 8 + [0.5]))[-1]) == pytest.approx(1.0)
    logs = np.array([0.5, 1.5, 1.0, 0.8, 1.2, 1.3, 1.1, 1.4, 0.0])
    expected = [0.5, 1.1, 1.1, 1.1, 1.2, 1.2, 1.2, 1.4, 0.0]
    assert space.clip(logs) == pytest.approx(expected), "where order is broken, the mean"


def test_a_length_to_readjust_is_below_the_longest():
    longer = scheme_factors("yarn", GEOMETRY, 2048)
    for target in (2, 2047):
        assert (
            SearchSpace(geometry=GEOMETRY, target_length=target, long_factors=longer).target_length == target
        )
    for target in (1, 2048, 4096):
        with pytest.raises(SettingError, match="below the 2048"):
            SearchSpace(geometry=GEOMETRY, target_length=target, long_factors=longer)
