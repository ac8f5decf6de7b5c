"""What every built-in strategy must do, and that the contracts notice a strategy that does not."""

import pytest

from ropewalk.errors import SettingError
from ropewalk.search.loop import run_search
from ropewalk.search.space import SearchSpace
from ropewalk.search.strategies import STRATEGY_NAMES, Task, make_strategy
from ropewalk.testing import CONTRACTS, GEOMETRY, Bowl, check_contract, spaces

# Small populations, so that a short search gets past the first one and to the children of children.
SETTINGS = {
    "evolution": {"population_size": 8, "num_mutations": 4, "num_crossovers": 4, "num_parents": 4},
    "cma": {"population_size": 6},
}
FULL = SearchSpace(geometry=GEOMETRY, target_length=2048)

every_strategy = pytest.mark.parametrize("name", STRATEGY_NAMES)


@every_strategy
@pytest.mark.parametrize("space", spaces())
def test_contracts(name, space):
    for contract in CONTRACTS:
        check_contract(contract, name, space, SETTINGS.get(name))


@every_strategy
def test_contracts_with_the_settings_that_users_have(name):
    """Past the first population and two iterations of the evolution."""
    for contract in CONTRACTS:
        check_contract(contract, name, FULL, budget=130)


@pytest.mark.parametrize("name", ["evolution", "random"])
@pytest.mark.parametrize("space", spaces())
def test_those_that_draw_whole_candidates_ask_for_none_twice(name, space):
    task = Task(space=spaces()[space], seed=5, budget=130)
    outcome = run_search(
        make_strategy(name, task, SETTINGS.get(name)), Bowl(task.space, num_documents=1), budget=131
    )
    asked = [trial.candidate for trial in outcome.trials if trial.kind == "trial"]
    assert len(asked) == 130
    assert len(set(asked)) == len(asked)


@every_strategy
def test_unknown_settings_and_seeds_are_refused(name):
    with pytest.raises(SettingError, match="has no setting 'speed'"):
        make_strategy(name, Task(space=FULL, seed=0, budget=130), {"speed": 3})
    with pytest.raises(SettingError, match="The seed is -1"):
        make_strategy(name, Task(space=FULL, seed=-1, budget=130))


def test_an_unknown_strategy_is_refused():
    with pytest.raises(
        SettingError, match=r"no strategy 'annealing'; the strategies are evolution, .*random, or package"
    ):
        make_strategy("annealing", Task(space=FULL, seed=0, budget=130))
