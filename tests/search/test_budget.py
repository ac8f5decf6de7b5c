"""What the loop reserves of a budget, and budgets where a value costs more than one pass."""

import dataclasses

import pytest
from quadratic import RecordingObjective, make_space, search_on

from ropewalk.errors import SettingError
from ropewalk.search.budget import RENEWAL_SHARE, renewals, strategy_budget
from ropewalk.search.early_stopping import EarlyStopping
from ropewalk.search.engine_constraints import UnconstrainedCandidates
from ropewalk.search.space import START_TOKENS
from ropewalk.testing import spaces

# With the paper's list of n-hats, which is longer than what a strategy may try of it.
SPACE = dataclasses.replace(spaces()["spline, monotone, all searched"], start_tokens=START_TOKENS)
FULL = make_space()
PLAIN = dataclasses.replace(FULL, start_tokens=(0,))
ANY = UnconstrainedCandidates.beyond("any")


def test_the_strategy_is_left_what_the_checks_do_not_need():
    objective, stop = RecordingObjective(FULL, 4), RecordingObjective(FULL, 2)
    assert strategy_budget(50, objective, FULL) == 49
    assert strategy_budget(50, objective, PLAIN) == 50
    assert strategy_budget(50, objective, PLAIN, unconstrained=ANY) == 50 - 1, "one n-hat"
    stop_set = EarlyStopping(stop, objective, 50)
    assert stop_set.cost == 0.5, "half as many documents"
    assert strategy_budget(50, objective, PLAIN, stop_set) == 50 - 0.5 * stop_set.num_checks
    all_of_them = strategy_budget(50, objective, FULL, stop_set, ANY)
    assert all_of_them == 50 - 1 - 1 - 0.5 * stop_set.num_checks


def test_dear_values_have_dear_checks():
    objective = RecordingObjective(FULL, 4, cost=2.0)
    assert strategy_budget(50, objective, FULL, unconstrained=ANY) == 50 - 2 - 1 * 2


def test_a_budget_without_room_for_one_trial_is_refused():
    objective = RecordingObjective(FULL, 4)
    with pytest.raises(SettingError, match="budget"):
        strategy_budget(2, objective, FULL, unconstrained=ANY)
    assert strategy_budget(3, objective, FULL, unconstrained=ANY) == 1


@pytest.mark.parametrize("name", ["gradient", "hybrid", "cma"])
@pytest.mark.parametrize("cost", [1.0, 1.25, 2.0, 4.0])
def test_what_is_bought_follows_the_cost(name, cost):
    """Twice the budget at twice the cost buys the same trials."""
    cheap = search_on(name, RecordingObjective(SPACE, 4), budget=40)
    expensive = search_on(name, RecordingObjective(SPACE, 4, cost=cost), budget=40 * cost)
    assert [trial.candidate for trial in expensive.trials] == [trial.candidate for trial in cheap.trials]
    assert expensive.cost == pytest.approx(cost * cheap.cost)


@pytest.mark.parametrize("cost", [1.0, 2.0])
def test_the_descent_ends_with_values_of_all_documents(cost):
    space = dataclasses.replace(SPACE, start_tokens=(0,))
    outcome = search_on("gradient", RecordingObjective(space, 4, cost=cost), budget=40)
    assert outcome.trials[-1].documents is None, "the last iterate"
    assert outcome.best == outcome.trials[-1]


@pytest.mark.parametrize("budget", [2, 3, 6, 27])
def test_kept_keys_have_renewals_as_far_as_the_budget_allows(budget):
    """Judged from kept keys, a value costs less than a reading, and the first keys cost one."""
    objective = RecordingObjective(FULL, 4, cost=0.2)
    objective.from_kept, objective.full_costs = True, (0.25,) * 4
    left = strategy_budget(budget, objective, PLAIN)
    kept = renewals(budget, objective, checks=0.0)
    assert left + kept == pytest.approx(budget)
    assert left >= objective.cost
    assert 1 <= kept <= 1 + RENEWAL_SHARE * budget
    with pytest.raises(SettingError, match="budget"):
        strategy_budget(1, objective, PLAIN)
