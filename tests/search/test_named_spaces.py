"""Knots, NTK's curve, LongRoPE2's part, and the way from coordinates to candidates and back."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.errors import SettingError
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.rope.schemes import scheme_factors
from ropewalk.search.named_spaces import (
    make_space,
    real_critical_pair,
    spline_knots,
    theoretical_critical_pair,
)
from ropewalk.search.space import SearchSpace

SCALE = RopeGeometry(head_dim=64, rotary_dim=64, rope_theta=625.0, original_length=256, num_layers=4)
LLAMA3 = RopeGeometry(head_dim=128, rotary_dim=128, rope_theta=500_000.0, original_length=8192, num_layers=32)
FULL = SearchSpace(geometry=SCALE, target_length=2048, attention_factors=(1.0, 1.1, 1.2))
NAMES = ("full", "spline", "longrope2")


def test_knots_stand_where_pairs_make_few_turns():
    knots = spline_knots(SCALE, 10)
    assert knots == (8, 10, 12, 14, 16, 18, 20, 22, 24, 31)
    turns = SCALE.turns()
    assert 7 < turns[knots[0]] < 9
    assert 0.3 < turns[knots[-2]] < 0.4
    assert spline_knots(SCALE, 24) == tuple(range(8, 32))
    for wrong in (-1, 25):
        with pytest.raises(SettingError, match="places for 1 to 24"):
            spline_knots(SCALE, wrong)


@pytest.mark.parametrize("scheme", ["yarn", "ntk", "mrrope-pro"])
@pytest.mark.parametrize(("geometry", "tuned_length"), [(SCALE, 4096), (SCALE, 16384), (LLAMA3, 131072)])
def test_a_second_search_can_leave_fast_pairs_alone_as_yarn_does(geometry, tuned_length, scheme):
    """Its ramp once came to slow down every pair that a model had just learnt, by up to a fifth."""
    window = scheme_factors(scheme, geometry, tuned_length).as_window()
    space = make_space("spline", SearchSpace(geometry=window, target_length=8 * tuned_length))
    snapped = space.snap(scheme_factors("yarn", window, 8 * tuned_length))
    fast = window.turns() > 32
    assert fast.sum() >= 10
    assert np.array(snapped.rescale_factors)[fast] == pytest.approx(1.0, abs=0.04)


@pytest.mark.parametrize("num_pairs", [2, 3, 4, 8])
@pytest.mark.parametrize("theta", [2.0, 100.0, 1e6])
def test_every_geometry_has_knots(num_pairs, theta):
    dim = 2 * num_pairs
    geometry = RopeGeometry(head_dim=dim, rotary_dim=dim, rope_theta=theta, original_length=64, num_layers=1)
    space = make_space("spline", SearchSpace(geometry=geometry, target_length=512))
    assert 1 <= space.num_knots <= num_pairs
    assert space.contains(space.snap(scheme_factors("yarn", geometry, 512)))


def test_critical_pairs_are_those_of_the_paper():
    assert theoretical_critical_pair(LLAMA3) == 35
    assert 28 <= real_critical_pair(LLAMA3) <= 31


def test_below_the_first_knot_stands_ntk_s_curve():
    space = make_space("spline", FULL)
    candidate = space.nearest(np.append(np.full(space.num_knots, math.log(8.0)), 0.0))
    expected = [8.0 ** min(1.0, pair / 8) for pair in range(32)]
    assert candidate.rescale_factors == pytest.approx(expected, rel=1e-8)


def test_longrope2_keeps_to_its_part():
    space = make_space("longrope2", FULL, critical_pair=14)
    assert space.knots == tuple(range(14, 32))
    for scheme in ("pi", "ntk", "yarn"):
        lambdas = np.array(space.snap(scheme_factors(scheme, SCALE, 2048)).rescale_factors)
        assert (lambdas[14:] >= 8 - 1e-9).all()
        assert (lambdas[14:] <= 16 + 1e-9).all()
        assert lambdas[:14] == pytest.approx(lambdas[14] ** (np.arange(14) / 14), rel=1e-8)
    for wrong in (0, 32):
        with pytest.raises(SettingError, match="critical pair is"):
            make_space("longrope2", FULL, critical_pair=wrong)


@pytest.mark.parametrize(
    ("name", "setting"), [("full", "num_knots"), ("longrope2", "num_knots"), ("spline", "critical_pair")]
)
def test_settings_of_other_spaces_are_refused(name, setting):
    with pytest.raises(SettingError, match=f"space {name} "):
        make_space(name, FULL, **{setting: 9})


def test_unknown_spaces_are_refused():
    with pytest.raises(SettingError, match=r"'cubic'.*full, spline, longrope2"):
        make_space("cubic", FULL)


@pytest.mark.parametrize("monotone", [True, False])
@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_the_nearest_candidate_is_of_the_space_and_stays(name, monotone, data):
    space = make_space(name, FULL, monotone=monotone)
    number = st.floats(-2, 5, allow_nan=False)
    at = np.array(data.draw(st.lists(number, min_size=space.num_knots + 1, max_size=space.num_knots + 1)))
    candidate = space.nearest(at)
    assert space.contains(candidate)
    assert space.nearest(space.coordinates(candidate)) == candidate
    assert space.clip(space.clip(at)) == pytest.approx(space.clip(at), abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_pulling_back_is_the_transpose(name):
    space = make_space(name, FULL)
    generator = np.random.default_rng(0)
    by_pair, along = generator.standard_normal(32), generator.standard_normal(space.num_knots)
    pulled = space.pull_back(by_pair, 3.0)
    assert pulled[:-1] @ along == pytest.approx(by_pair @ (space.basis @ along))
    assert pulled[-1] == 3.0
    fixed = make_space(name, SearchSpace(geometry=SCALE, target_length=2048))
    assert fixed.pull_back(by_pair, 3.0)[-1] == 0.0, "an attention factor that is given has no slope"


def test_the_first_knot_is_never_the_fastest_pair_nor_the_slowest():
    def first(length, theta=625.0):
        geometry = RopeGeometry(
            head_dim=16, rotary_dim=16, rope_theta=theta, original_length=length, num_layers=1
        )
        return spline_knots(geometry, 2)[0]

    assert first(16) == 1, "no pair makes 8 turns"
    assert first(10**6) == 6, "each makes more"


def test_longrope2_reaches_to_twice_the_ratio():
    space = make_space("longrope2", FULL)
    assert (space.floor, space.largest) == (8.0, 16.0)
    highest = space.candidate(np.full(space.num_knots, space.highest_level), 0, 1.0)
    assert highest.rescale_factors[-1] == 16.0
