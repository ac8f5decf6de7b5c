"""What counts of CMA-ES: where it begins, where it goes, what a failure is worth, and n-hat at the end."""

from dataclasses import replace

import numpy as np
import pytest
from quadratic import make_space, strategy_for

from ropewalk.search.trial import Trial

FINE = replace(make_space(), step=1e-6, monotone=False, start_tokens=(0,))
SIZE = 60


def tell(strategy, candidate, value):
    failure = "the value is nan" if value is None else None
    strategy.tell(Trial(index=0, candidate=candidate, value=value, failure=failure, seconds=0.0, cost=1.0))


def generation(strategy, value_of):
    """The coordinates of ln lambda of a generation, shape (SIZE, num_knots), told as `value_of` says."""
    points = []
    for _ in range(SIZE):
        candidate = strategy.ask().candidate
        points.append(strategy.space.coordinates(candidate)[:-1])
        tell(strategy, candidate, value_of(points[-1]))
    return np.array(points)


def begun(**settings):
    """A strategy whose next query is the first of a generation, and the best of its starts, the second."""
    given = {"schemes": ("pi", "pi:factor=3", "pi:factor=2"), "population_size": SIZE, **settings}
    strategy = strategy_for("cma", FINE, budget=1000, settings=given)
    starts = []
    for value in (3.0, 2.0, 4.0):
        starts.append(strategy.ask().candidate)
        tell(strategy, starts[-1], value)
    return strategy, FINE.coordinates(starts[1])[:-1]


@pytest.mark.parametrize("step_size", [0.15, 0.02])
def test_the_first_generation_is_spread_around_the_best_start(step_size):
    strategy, best = begun(step_size=step_size)
    points = generation(strategy, lambda point: 2.0)
    assert points.mean(axis=0) == pytest.approx(best, abs=step_size / 2)
    assert points.std() == pytest.approx(step_size, rel=0.1)


def test_generations_go_where_values_are_lower():
    strategy, _ = begun()
    first = generation(strategy, lambda point: 10 + point.sum())
    second = generation(strategy, lambda point: 10 + point.sum())
    assert second.sum(axis=1).mean() < first.sum(axis=1).mean() - 0.1


def test_a_candidate_that_fails_counts_as_worse_than_every_other():
    strategy, best = begun()
    first = generation(strategy, lambda point: None if point.sum() > best.sum() else 5.0)
    second = generation(strategy, lambda point: 5.0)
    assert second.sum(axis=1).mean() < first.sum(axis=1).mean() - 0.1


def test_start_tokens_are_tried_on_the_best_when_a_tenth_of_the_budget_is_left():
    space = replace(FINE, start_tokens=make_space().start_tokens)
    strategy = strategy_for("cma", space, budget=100, settings={"population_size": 10})
    asked = []
    while (query := strategy.ask()) is not None:
        asked.append(query.candidate)
        tell(strategy, query.candidate, 5.0 if len(asked) != 40 else 1.0)
    with_tokens = [index for index, candidate in enumerate(asked) if candidate.num_start_tokens > 0]
    assert with_tokens == list(range(90, len(asked)))
    assert 5 <= len(with_tokens) <= 10
    assert {candidate.rescale_factors for candidate in asked[90:]} == {asked[39].rescale_factors}
