"""The contracts, and how they are checked one by one."""

import copy
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ropewalk.search.evaluation import Evaluator
from ropewalk.search.space import SearchSpace
from ropewalk.search.strategies import Strategy
from ropewalk.search.trial import Query, Trial
from ropewalk.testing.quadratic_objective import spaces
from ropewalk.testing.strategy_driver import Asked, Case, Remembered, failed, failed_at_times

BUDGET = 40.0  # passes over the documents, in each check


def check_strategy(strategy: str | type[Strategy], settings: Mapping[str, Any] | None = None) -> None:
    """Every contract in every space.

    Args:
        strategy: a name as `--strategy` takes it, or a class with its settings as the attribute `Settings`.
        settings: of its own, where they differ from its defaults.

    Raises:
        AssertionError: a contract is broken; it says which one, and where.
    """
    for space in spaces():
        for contract in CONTRACTS:
            check_contract(contract, strategy, space, settings)


def check_contract(
    contract: str,
    strategy: str | type[Strategy],
    space: str | SearchSpace,
    settings: Mapping[str, Any] | None = None,
    *,
    budget: float = BUDGET,
) -> None:
    """One of `CONTRACTS` in one space.

    Args:
        space: one of `spaces()`, or another.
        budget: of each search in it, in passes over the documents.

    Raises:
        AssertionError: it is broken.
    """
    where = spaces()[space] if isinstance(space, str) else space
    case = Case(strategy, dict(settings or {}), where, budget)
    try:
        CONTRACTS[contract](case)
    except Exception as error:
        name = strategy if isinstance(strategy, str) else strategy.__name__
        place = space if isinstance(space, str) else "the space given"
        raise AssertionError(
            f"{name}: {contract}, in {place}: {error or 'is broken'}"
            if isinstance(error, AssertionError)
            else f"{name}: {contract}, in {place}: {type(error).__name__}: {error}"
        ) from error


def _queries_are_of_the_space(case: Case) -> None:
    count = 0
    for asked in case.drive(case.make()):
        _require_legal(asked.query, case.space)
        count += 1
    assert count > 0, "it asks for nothing"


def _require_legal(query: Query, space: SearchSpace) -> None:
    candidate = query.candidate
    lambdas = candidate.rescale_factors
    assert len(lambdas) == space.num_pairs, f"{len(lambdas)} lambdas for {space.num_pairs} pairs"
    low, high = min(lambdas), max(lambdas)
    largest = space.ceiling * space.extension_ratio
    assert low >= 1 - 1e-9 and high <= largest + 1e-9, f"lambdas from {low} to {high}, beyond 1 to {largest}"  # noqa: PT018
    if space.monotone:
        falls = [i for i in range(1, len(lambdas)) if lambdas[i] < lambdas[i - 1]]
        assert not falls, f"lambda falls at the pairs {falls}, in a monotone space"
    count, attention = candidate.num_start_tokens, candidate.attention_factor
    assert count in space.start_tokens, f"n-hat {count} is none of {space.start_tokens}"
    assert attention in space.attention_factors, f"attention factor {attention} is not in the list"
    assert space.contains(candidate), "lambdas are not on the grid: make candidates by `space`"


def _same_seed_same_queries(case: Case) -> None:
    one, same = (list(case.drive(case.make(seed=5))) for _ in range(2))
    _require_same(one, same, "twice with the same seed")


def _another_seed_differs(case: Case) -> None:
    strategy = case.make(seed=5)
    task, fresh = case.task(seed=5), np.random.Generator(np.random.PCG64(5))
    one = [asked.query for asked in case.drive(strategy)]
    draws = strategy.generator.bit_generator.state != fresh.bit_generator.state
    other = [asked.query for asked in case.drive(case.make(seed=6))]
    assert task.seed == strategy.task.seed, "it changed its task"
    assert not draws or one != other, "it draws, but seeds 5 and 6 ask for the same"


def _failures_are_survived(case: Case) -> None:
    for spoil in (failed_at_times, failed):
        for asked in case.drive(case.make(), spoil):
            _require_legal(asked.query, case.space)


def _resumed_equals_uninterrupted(case: Case) -> None:
    journal = Remembered()
    whole = case.search(journal)
    num = len(whole.trials)
    for cut in sorted({1, 2, 3, num // 3, num // 2, num - 1, num} & set(range(1, num + 1))):
        begun = Remembered(whole.trials[:cut], tuple(journal.generator_states[:cut]))
        resumed = case.search(begun)
        assert [_timeless(t) for t in resumed.trials] == [_timeless(t) for t in whole.trials], (
            f"resumed after {cut} of {num} trials, it went another way"
        )
        assert begun.generator_states == journal.generator_states, f"the generator differs after {cut} trials"


def _timeless(trial: Trial) -> Trial:
    return replace(trial, seconds=0.0)


def _what_it_is_given_is_not_changed(case: Case) -> None:
    strategy, task = case.make(), case.task()
    told: list[tuple[Trial, Trial]] = []

    def keep(trial: Trial, _: Query) -> Trial:
        told.append((trial, copy.deepcopy(trial)))
        return trial

    settings = copy.deepcopy(strategy.settings)
    for asked in case.drive(strategy, keep):
        trial, before = told[-1]
        assert trial == before, f"`tell` changed the trial {asked.trial.index}"
    assert all(trial == before for trial, before in told), "a trial that was told was changed later"
    assert strategy.task == task, "it changed its task"
    assert strategy.settings == settings, "it changed its settings"
    assert strategy.space == task.space, "it changed its space"


def _the_budget_is_kept(case: Case) -> None:
    for seed in (0, 1):
        outcome, allowed = case.search(seed=seed), case.task().budget
        spent = sum(trial.cost for trial in outcome.trials if trial.kind == "trial")
        assert spent <= allowed + 1e-9, f"its queries cost {spent}, its budget is {allowed}"
        assert outcome.cost <= case.budget + 1e-9, f"the search cost {outcome.cost} of {case.budget}"


def _its_generator_is_told_as_json(case: Case) -> None:
    strategy = case.make()
    for _ in case.drive(strategy):
        state = strategy.generator_state()
        assert json.loads(json.dumps(state, allow_nan=False)) == state, "its state is not the same after JSON"


def _global_generators_are_left_alone(case: Case) -> None:
    before = _global_states()
    for _ in case.drive(case.make()):
        pass
    for name, state in _global_states().items():
        assert state == before[name], f"it drew from the global generator of {name}"


def _global_states() -> dict[str, Any]:
    numpy_state = np.random.get_state(legacy=False)
    return {
        "random": random.getstate(),
        "numpy": repr(numpy_state["state"]["key"].tolist()) + repr(numpy_state["state"]["pos"]),
        "torch": torch.get_rng_state().tolist(),
    }


def _only_complete_values_are_best(case: Case) -> None:
    outcome = case.search()
    best = outcome.best
    assert best.is_complete, "the best was not read on all documents"
    values = [t.value for t in outcome.trials if t.is_complete and t.value is not None]
    assert best.value == min(values), "another trial of all documents is better"
    again = Evaluator(case.objective).evaluate(Query(candidate=best.candidate))
    assert best.value == again.value, "its value is not the one that its candidate has"


def _require_same(one: list[Asked], other: list[Asked], when: str) -> None:
    for index, (ours, theirs) in enumerate(zip(one, other, strict=False)):
        assert ours.query == theirs.query, f"query {index} differs, {when}"
        assert ours.generator_state == theirs.generator_state, (
            f"the generator differs at query {index}, {when}"
        )
    assert len(one) == len(other), f"{len(one)} and {len(other)} queries, {when}"


CONTRACTS: Mapping[str, Callable[[Case], None]] = {
    "queries are of the space": _queries_are_of_the_space,
    "same seed, same queries": _same_seed_same_queries,
    "another seed differs": _another_seed_differs,
    "failures are survived": _failures_are_survived,
    "resumed equals uninterrupted": _resumed_equals_uninterrupted,
    "what it is given is not changed": _what_it_is_given_is_not_changed,
    "the budget is kept": _the_budget_is_kept,
    "its generator is told as JSON": _its_generator_is_told_as_json,
    "global generators are left alone": _global_generators_are_left_alone,
    "only complete values are best": _only_complete_values_are_best,
}
