"""What every strategy must do, whatever it is."""

import copy
import math
import random

import numpy as np
import pytest
import torch

from ropewalk.errors import SettingError
from ropewalk.geometry import RopeGeometry
from ropewalk.search.journal import Journal
from ropewalk.search.loop import run_search
from ropewalk.search.space import SearchSpace
from ropewalk.search.strategies import STRATEGY_NAMES, make_strategy
from ropewalk.search.trial import Trial

GEOMETRY = RopeGeometry(head_dim=16, rotary_dim=16, rope_theta=625.0, original_length=256, num_layers=2)
SPACES = {
    "8x": SearchSpace(geometry=GEOMETRY, target_length=2048),
    "without start tokens": SearchSpace(geometry=GEOMETRY, target_length=2048, start_tokens=(0,)),
    "attention searched": SearchSpace(
        geometry=GEOMETRY, target_length=1000, attention_factors=(1.0, 1.05, 1.1)
    ),
    "barely longer": SearchSpace(geometry=GEOMETRY, target_length=300),
}
NUM_TRIALS = 130  # past the first population and two iterations of the evolution

every_strategy = pytest.mark.parametrize("name", STRATEGY_NAMES)
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


class Slope:
    """Lower lambdas are better; every third call gives NaN where `fails`."""

    cost = 1.0

    def __init__(self, *, fails=False):
        self.fails = fails
        self.num_calls = 0

    def __call__(self, candidate):
        self.num_calls += 1
        if self.fails and self.num_calls % 3 == 0:
            return math.nan
        return math.fsum(candidate.rescale_factors) + 0.01 * candidate.num_start_tokens


def trial_of(index, candidate, value=1.0):
    return Trial(index=index, candidate=candidate, value=value, failure=None, seconds=0.0, cost=1.0)


def asked_by(strategy, objective, count=NUM_TRIALS):
    asked = []
    for index in range(count):
        candidate = strategy.ask()
        asked.append(candidate)
        strategy.tell(trial_of(index, candidate, objective(candidate)))
    return asked


@every_strategy
@every_space
def test_candidates_are_in_bounds_monotone_and_new(name, space):
    asked = asked_by(make_strategy(name, space, seed=5), Slope())
    for candidate in asked:
        assert space.contains(candidate), candidate
        factors = space.to_factors(candidate).array()[0]
        assert factors[0] >= 1
        assert factors[-1] <= 1.25 * space.extension_ratio + 1e-9
        assert (factors[1:] >= factors[:-1]).all()
    assert len(set(asked)) == len(asked), "no candidate is asked for twice"


@every_strategy
@every_space
def test_same_seed_same_search(name, space):
    one, same, other = (asked_by(make_strategy(name, space, seed=s), Slope()) for s in (5, 5, 6))
    assert one == same
    assert one != other


@every_strategy
def test_a_failed_trial_is_recorded_and_the_search_goes_on(name):
    objective = Slope(fails=True)
    outcome = run_search(make_strategy(name, SPACES["8x"], seed=0), objective, budget=NUM_TRIALS)
    failures = [trial for trial in outcome.trials if trial.value is None]
    assert len(failures) == len(outcome.trials) // 3
    assert {trial.failure for trial in failures} == {"the value is nan"}
    assert outcome.best.value == min(trial.value for trial in outcome.trials if trial.value is not None)


@every_strategy
@pytest.mark.parametrize("num_done", [1, 40, 64, 65, NUM_TRIALS - 1])
def test_resumed_equals_uninterrupted(name, num_done, tmp_path):
    space = SPACES["8x"]
    whole = run_search(make_strategy(name, space, seed=2), Slope(), budget=NUM_TRIALS)
    path = tmp_path / "journal.jsonl"

    def stop(progress):
        if progress.num_trials == num_done:
            raise KeyboardInterrupt

    with Journal(path) as journal:
        journal.begin({"seed": 2}, {})
        with pytest.raises(KeyboardInterrupt):
            run_search(make_strategy(name, space, seed=2), Slope(), journal, budget=NUM_TRIALS, on_trial=stop)
    objective = Slope()
    with Journal(path) as journal:
        journal.begin({"seed": 2}, {})
        resumed = run_search(make_strategy(name, space, seed=2), objective, journal, budget=NUM_TRIALS)
    assert [t.candidate for t in resumed.trials] == [t.candidate for t in whole.trials]
    assert [t.value for t in resumed.trials] == [t.value for t in whole.trials]
    assert objective.num_calls == len(whole.trials) - num_done, "journalled values are not computed again"


@every_strategy
def test_what_it_is_given_is_not_changed(name):
    space, settings = SPACES["8x"], {}
    before = copy.deepcopy(space)
    strategy = make_strategy(name, space, seed=0, settings=settings)
    trials = []
    for index in range(NUM_TRIALS):
        candidate = strategy.ask()
        twin = copy.deepcopy(candidate)
        trials.append(trial_of(index, candidate, float(index)))
        strategy.tell(trials[-1])
        assert trials[-1] == trial_of(index, twin, float(index))
    assert space == before
    assert settings == {}


@every_strategy
def test_draws_come_from_its_own_generator_alone(name):
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    asked_by(make_strategy(name, SPACES["8x"], seed=0), Slope())
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


@every_strategy
def test_unknown_settings_and_seeds_are_refused(name):
    with pytest.raises(SettingError, match="has no setting 'speed'"):
        make_strategy(name, SPACES["8x"], seed=0, settings={"speed": 3})
    with pytest.raises(SettingError, match="The seed is -1"):
        make_strategy(name, SPACES["8x"], seed=-1)


def test_an_unknown_strategy_is_refused():
    with pytest.raises(SettingError, match=r"no strategy 'annealing'; the strategies are evolution, random"):
        make_strategy("annealing", SPACES["8x"], seed=0)
