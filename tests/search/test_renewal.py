"""Kept keys are renewed where the centre has moved further than the radius, which follows the error."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quadratic import make_space

from ropewalk.search.meter import Kept
from ropewalk.search.renewal import FIRST_RADIUS, MOST_CHANGE, TOLERANCE, Renewal, TrustRegion, distance
from ropewalk.search.space import Candidate

SPACE = make_space()
COSTS = (0.25,) * 4
ALL = (0, 1, 2, 3)


def at(log_factor: float, attention_factor: float = 1.0) -> Candidate:
    """A candidate with one factor for every pair."""
    factors = (math.exp(log_factor),) * SPACE.num_pairs
    return Candidate(rescale_factors=factors, num_start_tokens=0, attention_factor=attention_factor)


def kept(candidate: Candidate) -> Kept:
    return Kept(factors=SPACE.to_factors(candidate))


def renew(region: TrustRegion, centre: Candidate, documents=ALL, error: float | None = None) -> Renewal:
    renewal = Renewal(documents=documents, cost=sum(COSTS[one] for one in documents), error=error)
    region.record(renewal, centre, kept(centre))
    return renewal


def test_first_keys_are_made_whatever_the_budget_is():
    region = TrustRegion(budget=0.0)
    assert region.due(ALL, at(0.0), COSTS) == ALL
    assert region.kept(2) is None
    renew(region, at(0.0), documents=(0, 2))
    assert region.kept(2) == kept(at(0.0))
    assert region.due(ALL, at(0.0), COSTS) == (1, 3)


def test_keys_are_renewed_where_the_centre_is_beyond_the_radius_and_only_of_documents_that_are_measured():
    region = TrustRegion(budget=9.0)
    renew(region, at(0.0))
    assert region.due(ALL, at(0.9 * FIRST_RADIUS), COSTS) == ()
    assert region.due(ALL, at(1.1 * FIRST_RADIUS), COSTS) == ALL
    assert region.due((1, 3), at(-1.1 * FIRST_RADIUS), COSTS) == (1, 3)
    renew(region, at(1.1 * FIRST_RADIUS), documents=(1,))
    assert region.due(ALL, at(1.1 * FIRST_RADIUS), COSTS) == (0, 2, 3), "the keys of 1 are near"


def test_renewals_stop_where_the_next_one_is_beyond_the_budget():
    region = TrustRegion(budget=1.5)
    renew(region, at(0.0))
    assert region.spent == 1.0
    assert region.due(ALL, at(1.0), COSTS) == (0, 1), "0.5 is left, which is two documents"
    renew(region, at(1.0), documents=(0, 1))
    assert region.due(ALL, at(3.0), COSTS) == ()
    assert region.kept(3) == kept(at(0.0)), "keys stay"


@pytest.mark.parametrize(
    ("error", "change"),
    [(None, 1.0), (TOLERANCE, 1.0), (1.25 * TOLERANCE, 0.8), (0.8 * TOLERANCE, 1.25),
     (0.0, MOST_CHANGE), (9.0, 1 / MOST_CHANGE)],
)  # fmt: skip
def test_the_radius_becomes_the_distance_of_the_tolerated_error(error, change):
    region = TrustRegion(budget=9.0)
    renew(region, at(0.0))
    renew(region, at(FIRST_RADIUS), error=error)
    assert region.radius == pytest.approx(change * FIRST_RADIUS)
    assert region.largest_error == (error or 0.0)


@given(errors=st.lists(st.none() | st.floats(0, 10), max_size=6), budget=st.floats(0, 5))
def test_a_region_that_takes_recorded_renewals_is_the_same_as_the_one_that_made_them(errors, budget):
    first, again = (TrustRegion(budget=budget) for _ in range(2))
    for number, error in enumerate(errors):
        centre = at(0.4 * number)
        due = first.due(ALL, centre, COSTS)
        assert again.due(ALL, centre, COSTS) == due
        if due:
            is_first = first.kept(due[0]) is None
            renewal = renew(first, centre, due, None if is_first else error)
            again.record(renewal, centre, kept(centre))
        assert first == again
        assert first.radius > 0
    assert first.spent <= max(sum(COSTS), budget) + 1e-9


@given(st.floats(0, 3), st.floats(0, 3), st.floats(1.0, 1.5))
def test_distances_are_symmetric_and_grow_with_either_difference(one, other, attention_factor):
    first, second = at(one), at(other)
    assert distance(first, second) == pytest.approx(abs(one - other), abs=1e-12)
    assert distance(first, second) == distance(second, first)
    scaled = replace(second, attention_factor=attention_factor)
    assert distance(first, scaled) >= distance(first, second)
    assert distance(second, scaled) == pytest.approx(3 * math.log(attention_factor), abs=1e-12)


def test_many_start_tokens_are_far_from_none_and_few_are_not():
    none, few, many = (replace(at(0.1), num_start_tokens=count) for count in (0, 4, 256))
    assert 0 < distance(none, few) < FIRST_RADIUS < distance(none, many) == distance(many, none)
