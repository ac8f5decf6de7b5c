"""Where a value costs more than one pass (needles, a short term), strategies still come to their ends."""

import dataclasses

import pytest
from quadratic import RecordingObjective, search_on

from ropewalk.search.space import START_TOKENS
from ropewalk.testing import spaces

# With the paper's list of n-hats, which is longer than what a strategy may try of it.
SPACE = dataclasses.replace(spaces()["spline, monotone, all searched"], start_tokens=START_TOKENS)


@pytest.mark.parametrize("name", ["gradient", "hybrid", "cma"])
@pytest.mark.parametrize("cost", [1.0, 1.25, 2.0, 4.0])
def test_what_is_bought_follows_the_cost(name, cost):
    """Twice the budget at twice the cost buys the same trials."""
    cheap = search_on(name, RecordingObjective(SPACE, 4), budget=40)
    dear = search_on(name, RecordingObjective(SPACE, 4, cost=cost), budget=40 * cost)
    assert [trial.candidate for trial in dear.trials] == [trial.candidate for trial in cheap.trials]
    assert dear.cost == pytest.approx(cost * cheap.cost)


@pytest.mark.parametrize("cost", [1.0, 2.0])
def test_the_descent_ends_with_values_of_all_documents(cost):
    space = dataclasses.replace(SPACE, start_tokens=(0,))
    outcome = search_on("gradient", RecordingObjective(space, 4, cost=cost), budget=40)
    assert [trial.documents for trial in outcome.trials[-2:]] == [None, None], "the mean and the last iterate"
    assert outcome.best in outcome.trials[-2:]
