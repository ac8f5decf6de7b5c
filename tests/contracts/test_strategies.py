"""What every strategy must do, whatever it is; the contracts are those that authors from outside run."""

from dataclasses import replace

import numpy as np
import pytest

from ropewalk.errors import SettingError
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.search.budget import strategy_budget
from ropewalk.search.loop import SearchLoop
from ropewalk.search.space import SearchSpace
from ropewalk.search.strategies import STRATEGY_NAMES, Strategy, Task, make_strategy
from ropewalk.search.strategies.random_search import RandomSearch, RandomSettings
from ropewalk.search.trial import Query, Trial
from ropewalk.testing import CONTRACTS, Bowl, check_contract, check_strategy, spaces

GEOMETRY = RopeGeometry(head_dim=16, rotary_dim=16, rope_theta=625.0, original_length=256, num_layers=2)
TASK = Task(space=SearchSpace(geometry=GEOMETRY, target_length=2048), seed=0, budget=100.0)


@pytest.mark.parametrize("contract", CONTRACTS)
@pytest.mark.parametrize("space", spaces())
@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_every_strategy_keeps_every_contract(name: str, space: str, contract: str) -> None:
    check_contract(contract, name, space)


# Small populations, so that a short search gets past the first one and to the children of children.
SMALL = {
    "evolution": {"population_size": 8, "num_mutations": 4, "num_crossovers": 4, "num_parents": 4},
    "cma": {"population_size": 6},
}


@pytest.mark.parametrize("space", spaces())
@pytest.mark.parametrize("name", SMALL)
def test_later_generations_keep_every_contract(name: str, space: str) -> None:
    for contract in CONTRACTS:
        check_contract(contract, name, space, SMALL[name])


@pytest.mark.parametrize("space", spaces())
@pytest.mark.parametrize("name", ["evolution", "random"])
def test_what_is_drawn_whole_is_asked_for_once(name: str, space: str) -> None:
    task = Task(space=spaces()[space], seed=5, budget=130.0)
    strategy = make_strategy(name, task, SMALL.get(name))
    outcome = SearchLoop(strategy, Bowl(task.space, num_documents=1), budget=131.0).run()
    asked = [trial.candidate for trial in outcome.trials if trial.kind == "trial"]
    assert len(asked) == 130
    assert len(set(asked)) == len(asked)


class _LeavesTheSpace(RandomSearch):
    def ask(self) -> Query | None:
        query = super().ask()
        assert query is not None
        lambdas = query.candidate.rescale_factors
        wrong = type(query.candidate)(
            rescale_factors=(*lambdas[:-1], 99.0), num_start_tokens=0, attention_factor=1.0
        )
        return Query(candidate=wrong)


class _DrawsElsewhere(RandomSearch):
    def ask(self) -> Query | None:
        self.generator = np.random.Generator(np.random.PCG64(np.random.randint(2**30)))
        return super().ask()


class _ForgetsWhatItWasTold(RandomSearch):
    """Its draws follow from how often it was made, not from the seed."""

    num_made = 0

    def __init__(self, task: Task, settings: RandomSettings) -> None:
        super().__init__(task, settings)
        type(self).num_made += 1
        self.generator = np.random.Generator(np.random.PCG64(type(self).num_made))


class _ChangesWhatItIsTold(RandomSearch):
    def tell(self, trial: Trial) -> None:
        trial.parts.clear()


class _NeedsAValue(RandomSearch):
    def tell(self, trial: Trial) -> None:
        assert trial.value is not None


class _NamesADocumentTooMany(RandomSearch):
    def ask(self) -> Query | None:
        query = super().ask()
        assert query is not None
        return replace(query, documents=(0, self.task.num_documents))


class _ReadsNoneWhole(RandomSearch):
    def ask(self) -> Query | None:
        query = super().ask()
        assert query is not None
        return replace(query, documents=(0,))


class _GivesItselfABudget(RandomSearch):
    def __init__(self, task: Task, settings: RandomSettings) -> None:
        super().__init__(replace(task, budget=10 * task.budget), settings)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (_ChangesWhatItIsTold, "what it is given is not changed"),
        (_NeedsAValue, "failures are survived"),
        (_NamesADocumentTooMany, r"documents (0, 4) of 4"),
        (_ReadsNoneWhole, "only complete values are best"),
        (_GivesItselfABudget, "the budget is kept"),
        (_LeavesTheSpace, "queries are of the space"),
        (_DrawsElsewhere, "global generator"),
        (_ForgetsWhatItWasTold, "same seed"),
    ],
)
def test_a_broken_strategy_is_caught(broken: type[Strategy], said: str) -> None:
    caught = []
    for contract in CONTRACTS:
        try:
            check_contract(contract, broken, "full, monotone, all searched")
        except AssertionError as error:
            caught.append(str(error))
    assert any(said in message for message in caught), caught


def test_check_strategy_goes_through_every_space(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("ropewalk.testing.strategy_contracts.check_contract", lambda *a: seen.append(a))
    check_strategy("random")
    assert len(seen) == len(CONTRACTS) * len(spaces())


# How far above the lowest mean nats each may end within 60 passes, in the spline space, everything searched.
@pytest.mark.parametrize(("name", "above"), [("gradient", 0.02), ("hybrid", 0.02), ("cma", 0.6)])
def test_it_finds_the_bottom_of_the_bowl(name: str, above: float) -> None:
    space = spaces()["spline, monotone, lambda only"]
    objective = Bowl(space)
    task = Task(
        space=space,
        seed=0,
        budget=strategy_budget(60.0, objective, space),
        num_documents=objective.num_documents,
        gradient_cost=objective.gradient_cost,
    )
    outcome = SearchLoop(make_strategy(name, task), objective, budget=60.0).run()
    start = outcome.trials[0].value
    assert outcome.best.value is not None
    assert start is not None
    reached = np.log(outcome.best.value) - lowest_on(space, objective)
    assert reached < above, reached
    assert outcome.best.value < start


def lowest_on(space: SearchSpace, objective: Bowl) -> float:
    """Mean nats at the point of the spline nearest to the bowl's bottom: what any strategy could reach."""
    goals = (np.arange(space.num_pairs) / space.num_pairs) ** 2 * np.log(space.extension_ratio)
    knots, *_ = np.linalg.lstsq(space.basis, goals, rcond=None)
    nearest = space.nearest(np.append(knots, np.log(space.attention_factors[0])))
    nats = [objective.measure(nearest, document)[0] for document in range(objective.num_documents)]
    return float(np.mean(nats))


@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_unknown_settings_and_seeds_are_refused(name: str) -> None:
    with pytest.raises(SettingError, match="has no setting 'speed'"):
        make_strategy(name, TASK, {"speed": 3})
    with pytest.raises(SettingError, match="The seed is -1"):
        make_strategy(name, replace(TASK, seed=-1))


def test_unknown_strategies_are_refused() -> None:
    with pytest.raises(SettingError, match="no strategy 'annealing'; the strategies are evolution"):
        make_strategy("annealing", TASK)
    with pytest.raises(SettingError, match="can't be imported"):
        make_strategy("no_such_module:Name", TASK)
    with pytest.raises(SettingError, match="has no 'Nothing'"):
        make_strategy("ropewalk.testing:Nothing", TASK)
    with pytest.raises(SettingError, match="must be a subclass"):
        make_strategy("ropewalk.testing:Bowl", TASK)
