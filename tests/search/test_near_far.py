"""Searches of near-far factors: their space, their settings, and a search from start to end."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ropewalk.errors import SettingError
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.rope.schemes import scheme_factors
from ropewalk.search.finalists import closed_form_candidates
from ropewalk.search.plan import search_space
from ropewalk.search.renewal import distance
from ropewalk.search.settings import SearchSettings
from ropewalk.search.space import Candidate
from ropewalk.search.strategies.initial_candidates import first_candidates
from ropewalk.search.trial import Trial

GEOMETRY = RopeGeometry(head_dim=64, rotary_dim=64, rope_theta=625.0, original_length=256, num_layers=4)
SETTINGS = SearchSettings(near_window="search")
SPACE = search_space(GEOMETRY, 2048, SETTINGS)


def test_a_near_window_implies_the_engine_that_has_it_and_exact_readings():
    assert (SETTINGS.serve_with, SETTINGS.start_tokens, SETTINGS.exact) == ("ropewalk", "none", True)
    assert SearchSettings().near_window == 0


@pytest.mark.parametrize(
    "given",
    [
        {"start_tokens": "search"},
        {"serve_with": "vllm"},
        {"strategy": "cma"},
        {"strategy": "evolution"},
        {"base": "as-is"},
        {"exact": False},
    ],
    ids=str,
)
def test_what_near_far_factors_have_not_is_refused(given):
    (name,) = given
    with pytest.raises(SettingError, match=name):
        SearchSettings.checked({"near_window": 64, **given})


@pytest.mark.parametrize("window", [-1, "x", 2.5, True])
def test_the_near_window_is_a_number_of_tokens_or_search(window):
    with pytest.raises(SettingError, match="near_window"):
        SearchSettings.checked({"near_window": window})


@pytest.mark.parametrize("window", [256, 300])
def test_a_near_window_is_below_the_models_window(window):
    with pytest.raises(SettingError, match=str(window)):
        search_space(GEOMETRY, 2048, SearchSettings(near_window=window))


def test_longrope2_has_no_near_window():
    with pytest.raises(SettingError, match="near window"):
        search_space(GEOMETRY, 2048, SearchSettings(near_window=64, space="longrope2"))


def test_the_knots_are_spread_over_all_pairs():
    assert SPACE.near_windows == (32, 64, 128)
    assert SPACE.knots == (0, 6, 12, 19, 25, 31)
    assert search_space(GEOMETRY, 2048, SearchSettings(near_window=64, num_knots=2)).knots == (0, 31)
    with pytest.raises(SettingError, match="33 knots"):
        search_space(GEOMETRY, 2048, SearchSettings(near_window=64, num_knots=33))


def test_each_window_starts_from_its_closed_form():
    starts = first_candidates(SPACE, ("yarn",))
    assert [one.near_window for one in starts] == [32, 64, 128, 64]
    for start in starts:
        exact = scheme_factors(f"near-far:window={start.near_window}", GEOMETRY, 2048)
        np.testing.assert_allclose(start.rescale_factors, exact.array()[0], atol=1e-4)
        assert SPACE.contains(start)
        assert SPACE.to_factors(start).near_window == start.near_window
    assert (starts[-1].attention_factor, starts[-1].near_attention_factor) == (1.0, 1.0)


def test_closed_forms_of_near_windows_are_finalists_besides_the_plain_ones():
    forms = closed_form_candidates(SPACE, SETTINGS)
    windows = [form.candidate.near_window for form in forms]
    assert sorted(set(windows)) == [0, 32, 64, 128]
    fixed = SearchSettings(near_window=64, attention_factor=1.05)
    forms = closed_form_candidates(search_space(GEOMETRY, 2048, fixed), fixed)
    near = {form.candidate.near_attention_factor for form in forms if form.candidate.near_window}
    assert near == {1.05}


@settings(max_examples=50)
@given(
    knots=st.lists(st.floats(-1, 4), min_size=6, max_size=6),
    attention=st.lists(st.floats(-0.5, 0.8), min_size=2, max_size=2),
    window=st.sampled_from([32, 64, 128]),
)
def test_the_nearest_candidate_is_in_the_space_and_its_own_nearest(knots, attention, window):
    candidate = SPACE.nearest(np.array(knots + attention), near_window=window)
    assert SPACE.contains(candidate)
    assert candidate.near_window == window
    assert SPACE.nearest(SPACE.coordinates(candidate), near_window=window) == candidate
    assert Candidate.from_dict(json.loads(json.dumps(candidate.as_dict()))) == candidate


def test_a_gradient_has_a_component_for_each_attention_factor():
    pulled = SPACE.pull_back(np.ones(32), 2.0, 3.0)
    assert pulled.shape == (SPACE.num_coordinates,)
    assert pulled[-2:].tolist() == [2.0, 3.0]
    assert pulled[:-2].sum() == pytest.approx(32)
    fixed = search_space(GEOMETRY, 2048, SearchSettings(near_window=64, attention_factor=1.05))
    assert fixed.pull_back(np.ones(32), 2.0, 3.0)[-2:].tolist() == [0.0, 0.0]


def test_a_journal_line_of_a_plain_candidate_has_no_near_window():
    plain = Candidate(rescale_factors=(1.0, 2.0), num_start_tokens=0, attention_factor=1.0)
    assert set(plain.as_dict()) == {"rescale_factors", "num_start_tokens", "attention_factor"}
    near_far = Candidate(
        rescale_factors=(1.0, 2.0),
        num_start_tokens=0,
        attention_factor=1.0,
        near_window=8,
        near_attention_factor=1.1,
    )
    trial = Trial(index=0, candidate=near_far, value=2.0, failure=None, seconds=0.0, cost=1.0)
    assert Trial.from_dict(json.loads(json.dumps(trial.as_dict()))) == trial
    assert distance(plain, near_far) == np.inf
