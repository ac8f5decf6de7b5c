"""Every strategy keeps every contract, in each kind of space that can make a difference to the contract."""

import numpy as np
import pytest

from ropewalk.search.budget import strategy_budget
from ropewalk.search.loop import SearchLoop
from ropewalk.search.space import SearchSpace
from ropewalk.search.strategies import STRATEGY_NAMES, Task, make_strategy
from ropewalk.testing import CONTRACTS, QuadraticObjective, check_contract, spaces

# Each kind of space, both orders, and both choices of what is searched occur; the last one is nearly empty.
KINDS = ("full, free, lambda only", "spline, monotone, all searched", "longrope2, monotone, lambda only",
         "full, barely longer")  # fmt: skip
# Without and with draws of n-hat and of the attention factor.
DRAWS = ("full, free, lambda only", "spline, monotone, all searched")
SPACES_FOR = {
    "queries are in the space": tuple(spaces()),
    "failures are survived": KINDS,
    "resumed equals uninterrupted": KINDS,
    "the budget is kept": KINDS,
    "only complete values are best": KINDS,
    "same seed, same queries": DRAWS,
    "another seed differs": DRAWS,
    "known queries come next": KINDS,
    "inputs are not changed": DRAWS,
    "generator state is JSON": DRAWS,
    "global generators are not used": DRAWS,
}
CASES = [(contract, space) for contract, names in SPACES_FOR.items() for space in names]

# Small populations, so that a short search reaches the second generation of children.
SMALL = {
    "evolution": {"population_size": 8, "num_mutations": 4, "num_crossovers": 4, "num_parents": 4},
    "cma": {"population_size": 6},
}


def test_every_contract_has_its_spaces():
    assert set(SPACES_FOR) == set(CONTRACTS)
    for part in ("full", "spline", "longrope2", "monotone", "free", "all searched", "lambda only"):
        assert any(part in space for space in KINDS), part


@pytest.mark.parametrize(("contract", "space"), CASES)
@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_every_strategy_keeps_every_contract(name, contract, space):
    check_contract(contract, name, space)


@pytest.mark.parametrize("space", spaces())
@pytest.mark.parametrize("name", SMALL)
def test_later_generations_stay_in_the_space(name, space):
    check_contract("queries are in the space", name, space, SMALL[name])


@pytest.mark.parametrize("contract", [name for name in CONTRACTS if name != "queries are in the space"])
@pytest.mark.parametrize("name", SMALL)
def test_later_generations_keep_every_contract(name, contract):
    check_contract(contract, name, "full, monotone, all searched", SMALL[name])


@pytest.mark.parametrize("space", KINDS)
@pytest.mark.parametrize("name", ["evolution", "random"])
def test_no_candidate_is_drawn_twice(name, space):
    task = Task(space=spaces()[space], seed=5, budget=130.0)
    strategy = make_strategy(name, task, SMALL.get(name))
    outcome = SearchLoop(strategy, QuadraticObjective(task.space, num_documents=1), budget=131.0).run()
    drawn = [trial.candidate for trial in outcome.trials if trial.kind == "trial"]
    assert len(drawn) == 130
    assert len(set(drawn)) == len(drawn)


# How far above the lowest mean nats each may end within 60 passes over the documents.
@pytest.mark.parametrize(("name", "above"), [("gradient", 0.02), ("hybrid", 0.02), ("cma", 0.6)])
def test_it_finds_the_minimum(name, above):
    space = spaces()["spline, monotone, lambda only"]
    objective = QuadraticObjective(space)
    task = Task(
        space=space,
        seed=0,
        budget=strategy_budget(60.0, objective, space),
        num_documents=objective.num_documents,
        gradient_cost=objective.gradient_cost,
    )
    outcome = SearchLoop(make_strategy(name, task), objective, budget=60.0).run()
    start = outcome.trials[0].value
    reached = np.log(outcome.best.value) - lowest_on(space, objective)
    assert reached < above, reached
    assert outcome.best.value < start


def lowest_on(space: SearchSpace, objective: QuadraticObjective) -> float:
    """Mean nats at the spline nearest to the minimum: the lowest that any strategy can reach."""
    minimum = (np.arange(space.num_pairs) / space.num_pairs) ** 2 * np.log(space.extension_ratio)
    knots, *_ = np.linalg.lstsq(space.basis, minimum, rcond=None)
    nearest = space.nearest(np.append(knots, np.log(space.attention_factors[0])))
    factors = space.to_factors(nearest)
    nats = [objective.nats(factors, document) for document in range(objective.num_documents)]
    return float(np.mean(nats))
