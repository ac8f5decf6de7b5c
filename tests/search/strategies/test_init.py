"""Strategies by name: unknown names, settings and seeds are refused."""

import pytest

from ropewalk.errors import SettingError
from ropewalk.search.strategies import STRATEGY_NAMES, Task, make_strategy
from ropewalk.testing import spaces


def task(seed=0):
    return Task(space=spaces()["full, monotone, all searched"], seed=seed, budget=100.0)


@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_unknown_settings_and_negative_seeds_are_refused(name):
    with pytest.raises(SettingError, match="speed"):
        make_strategy(name, task(), {"speed": 3})
    with pytest.raises(SettingError, match="seed"):
        make_strategy(name, task(seed=-1))


@pytest.mark.parametrize(
    "name",
    ["annealing", "no_such_module:Name", "ropewalk.testing:Nothing", "ropewalk.testing:QuadraticObjective"],
)
def test_unknown_strategies_are_refused(name):
    with pytest.raises(SettingError, match=name.rpartition(":")[2]):
        make_strategy(name, task())
