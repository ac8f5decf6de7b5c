"""The contracts of a strategy, and the check of each."""

import copy
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from ropewalk.search.evaluation import Evaluator
from ropewalk.search.space import SearchSpace
from ropewalk.search.strategies import Strategy
from ropewalk.search.trial import Query, Trial
from ropewalk.testing.quadratic_objective import spaces
from ropewalk.testing.strategy_driver import (
    ContractCase,
    MemoryJournal,
    RecordedQuery,
    every_third_failed,
    failed,
)

BUDGET = 40.0  # of a search in a check, in forward passes over all documents
NUM_AHEAD = 5  # queries that are compared with those that `ask_ahead` returned


def check_strategy(strategy: str | type[Strategy], settings: Mapping[str, Any] | None = None) -> None:
    """Checks every contract in every space.

    Args:
        strategy: a name for `--strategy`, or a class whose attribute `Settings` is the class of its settings.
        settings: the strategy's settings that differ from its defaults.

    Raises:
        AssertionError: a contract is broken; the message names it and the space.
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
    """Checks one contract in one space.

    Args:
        contract: a key of `CONTRACTS`.
        strategy, settings: see `check_strategy`.
        space: a key of `spaces()`, or a search space.
        budget: of each search, in forward passes over all documents.

    Raises:
        AssertionError: the contract is broken.
    """
    where = spaces()[space] if isinstance(space, str) else space
    case = ContractCase(strategy, dict(settings or {}), where, budget)
    try:
        CONTRACTS[contract](case)
    except Exception as error:
        name = strategy if isinstance(strategy, str) else strategy.__name__
        place = space if isinstance(space, str) else "the given space"
        raise AssertionError(
            f"{name}: {contract}, in {place}: {error or 'is broken'}"
            if isinstance(error, AssertionError)
            else f"{name}: {contract}, in {place}: {type(error).__name__}: {error}"
        ) from error


def _queries_are_in_the_space(case: ContractCase) -> None:
    count = 0
    for step in case.drive(case.make()):
        _require_legal(step.query, case.space)
        count += 1
    assert count > 0, "it has no query"


def _require_legal(query: Query, space: SearchSpace) -> None:
    candidate = query.candidate
    lambdas = candidate.rescale_factors
    assert len(lambdas) == space.num_pairs, f"{len(lambdas)} rescale factors for {space.num_pairs} pairs"
    largest = space.ceiling * space.extension_ratio
    assert min(lambdas) >= 1 - 1e-9, f"a rescale factor is {min(lambdas)}, below 1"
    assert max(lambdas) <= largest + 1e-9, f"a rescale factor is {max(lambdas)}, above {largest}"
    if space.monotone:
        falls = [i for i in range(1, len(lambdas)) if lambdas[i] < lambdas[i - 1]]
        assert not falls, f"in a monotone space, lambda falls at the pairs {falls}"
    count, attention = candidate.num_start_tokens, candidate.attention_factor
    assert count in space.start_tokens, f"n-hat {count} is not one of {space.start_tokens}"
    assert attention in space.attention_factors, (
        f"attention factor {attention} is not one of {space.attention_factors}"
    )
    assert space.contains(candidate), "lambda is not on the grid: make candidates with the methods of `space`"


def _same_seed_same_queries(case: ContractCase) -> None:
    one, same = (list(case.drive(case.make(seed=5))) for _ in range(2))
    _require_same(one, same, "for the same seed")


def _another_seed_differs(case: ContractCase) -> None:
    strategy = case.make(seed=5)
    task, fresh = case.task(seed=5), np.random.Generator(np.random.PCG64(5))
    one = [step.query for step in case.drive(strategy)]
    draws = strategy.generator.bit_generator.state != fresh.bit_generator.state
    other = [step.query for step in case.drive(case.make(seed=6))]
    assert task.seed == strategy.task.seed, "it changed its task"
    assert not draws or one != other, "it draws, but seeds 5 and 6 give the same queries"


def _failures_are_survived(case: ContractCase) -> None:
    for spoil in (every_third_failed, failed):
        for step in case.drive(case.make(), spoil):
            _require_legal(step.query, case.space)


def _resumed_equals_uninterrupted(case: ContractCase) -> None:
    journal = MemoryJournal()
    whole = case.search(journal)
    num = len(whole.trials)
    for cut in sorted({1, 2, 3, num // 3, num // 2, num - 1, num} & set(range(1, num + 1))):
        interrupted = MemoryJournal(whole.trials[:cut], tuple(journal.generator_states[:cut]))
        resumed = case.search(interrupted)
        assert [_timeless(t) for t in resumed.trials] == [_timeless(t) for t in whole.trials], (
            f"after resuming at {cut} of {num} trials, its trials differ"
        )
        assert interrupted.generator_states == journal.generator_states, (
            f"after resuming at {cut} trials, its generator differs"
        )


def _timeless(trial: Trial) -> Trial:
    return replace(trial, seconds=0.0)


def _known_queries_come_next(case: ContractCase) -> None:
    for spoil in (every_third_failed, failed):
        _require_known_next(case, spoil)


def _require_known_next(case: ContractCase, spoil: Callable[[Trial, Query], Trial]) -> None:
    strategy, known = case.make(), list[list[Query]]()

    def look_ahead(trial: Trial, query: Query) -> Trial:
        state = strategy.generator_state()
        known.append(list(islice(strategy.ask_ahead(), NUM_AHEAD)))
        assert strategy.generator_state() == state, "`ask_ahead` drew from the generator"
        return spoil(trial, query)

    queries = [step.query for step in case.drive(strategy, look_ahead)]
    for index, ahead in enumerate(known):
        next_ones = queries[index + 1 : index + 1 + len(ahead)]
        assert ahead[: len(next_ones)] == next_ones, f"after query {index}, `ask_ahead` returned others"


def _inputs_are_not_changed(case: ContractCase) -> None:
    strategy, task = case.make(), case.task()
    seen: list[tuple[Trial, Trial]] = []

    def keep(trial: Trial, _: Query) -> Trial:
        seen.append((trial, copy.deepcopy(trial)))
        return trial

    settings = copy.deepcopy(strategy.settings)
    for step in case.drive(strategy, keep):
        trial, before = seen[-1]
        assert trial == before, f"`tell` changed the trial {step.trial.index}"
    assert all(trial == before for trial, before in seen), "it changed a trial after `tell`"
    assert strategy.task == task, "it changed its task"
    assert strategy.settings == settings, "it changed its settings"
    assert strategy.space == task.space, "it changed its space"


def _the_budget_is_kept(case: ContractCase) -> None:
    for seed in (0, 1):
        outcome, allowed = case.search(seed=seed), case.task().budget
        spent = sum(trial.cost for trial in outcome.trials if trial.kind == "trial")
        assert spent <= allowed + 1e-9, f"its queries cost {spent} of {allowed}"
        assert outcome.cost <= case.budget + 1e-9, f"the search cost {outcome.cost} of {case.budget}"


def _generator_state_is_json(case: ContractCase) -> None:
    strategy = case.make()
    for _ in case.drive(strategy):
        state = strategy.generator_state()
        assert json.loads(json.dumps(state, allow_nan=False)) == state, (
            "the state of its generator is not JSON"
        )


def _global_generators_are_not_used(case: ContractCase) -> None:
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


def _only_complete_values_are_best(case: ContractCase) -> None:
    outcome = case.search()
    best = outcome.best
    assert best.is_complete, "the best value is not of all documents"
    values = [t.value for t in outcome.trials if t.is_complete and t.value is not None]
    assert best.value == min(values), "a trial of all documents has a lower value"
    again = Evaluator(case.objective).evaluate(Query(candidate=best.candidate))
    assert best.value == again.value, "the best value is not its candidate's"


def _require_same(one: list[RecordedQuery], other: list[RecordedQuery], when: str) -> None:
    for index, (ours, theirs) in enumerate(zip(one, other, strict=False)):
        assert ours.query == theirs.query, f"query {index} differs, {when}"
        assert ours.generator_state == theirs.generator_state, (
            f"the generator differs at query {index}, {when}"
        )
    assert len(one) == len(other), f"{len(one)} and {len(other)} queries, {when}"


CONTRACTS: Mapping[str, Callable[[ContractCase], None]] = {
    "queries are in the space": _queries_are_in_the_space,
    "same seed, same queries": _same_seed_same_queries,
    "another seed differs": _another_seed_differs,
    "failures are survived": _failures_are_survived,
    "resumed equals uninterrupted": _resumed_equals_uninterrupted,
    "known queries come next": _known_queries_come_next,
    "inputs are not changed": _inputs_are_not_changed,
    "the budget is kept": _the_budget_is_kept,
    "generator state is JSON": _generator_state_is_json,
    "global generators are not used": _global_generators_are_not_used,
    "only complete values are best": _only_complete_values_are_best,
}
