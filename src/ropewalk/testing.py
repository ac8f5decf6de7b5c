"""What every strategy must keep to, as checks that the author of one from outside can run.

    from ropewalk.testing import check_strategy
    check_strategy("my_package.my_module:MyStrategy", {"my_setting": 3})

A broken contract is an AssertionError that says which one, in which space. No model is needed: strategies are
tried on a bowl, an objective whose lowest point is known. With pytest, `CONTRACTS` and `spaces()` can be
parametrised over:

    @pytest.mark.parametrize("contract", CONTRACTS)
    @pytest.mark.parametrize("space", spaces())
    def test_mine(contract, space):
        check_contract(contract, MyStrategy, space)
"""

import copy
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ropewalk.geometry import RopeGeometry
from ropewalk.search.journal import Journal
from ropewalk.search.loop import Progress, SearchOutcome, left_for_strategy, run_search
from ropewalk.search.measure import Measurer
from ropewalk.search.objective import Gradient, Objective, Term
from ropewalk.search.space import Candidate, SearchSpace
from ropewalk.search.spaces import make_space
from ropewalk.search.strategies import Strategy, Task, make_strategy
from ropewalk.search.trial import Query, Trial
from ropewalk.text.windows import TokenWindow

__all__ = ["CONTRACTS", "Bowl", "check_contract", "check_strategy", "spaces"]

BUDGET = 40.0  # passes over the documents, in each check
NUM_DOCUMENTS = 4
BEST_ATTENTION = 1.1
SPREAD = 0.05  # of the documents' lowest points, in ln lambda

GEOMETRY = RopeGeometry(head_dim=16, rotary_dim=16, rope_theta=625.0, original_length=256, num_layers=2)
TARGET_LENGTH = 2048


class Bowl(Objective):
    """An objective in the place of a model: fast, exact gradients, and its lowest point is known.

    Nats of a document are a parabola in ln lambda and ln attention. Over all documents it is lowest where
    ln lambda_i = (i / n)^2 ln s, the attention factor is 1.1, and n-hat is 1; each document for itself is
    lowest a little beside that.

    Attributes:
        lowest_nats: the mean nats at that point, with n-hat 1.
    """

    def __init__(
        self,
        space: SearchSpace,
        num_documents: int = NUM_DOCUMENTS,
        *,
        cost: float = 1.0,
        spread: float = SPREAD,
    ) -> None:
        """`cost`: of a value of all documents, in forward passes; `spread`: of the documents' own minima."""
        window = TokenWindow(ids=torch.zeros(2, dtype=torch.int64), num_scored=1)
        self.terms = (Term(name="bowl", weight=1.0, windows=((window,),) * num_documents),)
        self.space = space
        self.costs = (cost / num_documents,) * num_documents
        self.gradient_cost = 3.0
        pairs = np.arange(space.num_pairs)
        shifts = spread * np.cos(pairs + 2.0 * np.arange(num_documents)[:, None])
        self._shifts = shifts - shifts.mean(axis=0)
        self._goals = (pairs / space.num_pairs) ** 2 * math.log(space.extension_ratio) + self._shifts
        self.lowest_nats = 1.01 + float((self._shifts**2).sum(axis=1).mean())

    @property
    def name(self) -> str:
        return f"bowl of {self.num_documents} documents"

    def measure(self, candidate: Candidate, document: int) -> tuple[float, ...]:
        away, attention = self._away(candidate, document)
        start = 0.01 * candidate.num_start_tokens or 1.0
        return (float(1.0 + away @ away + 100 * attention**2 + start),)

    def differentiate(self, candidate: Candidate, document: int) -> tuple[tuple[float, ...], Gradient]:
        away, attention = self._away(candidate, document)
        row = self.space.pull_back(2 * away, 200 * attention)
        return self.measure(candidate, document), row[None]

    def _away(self, candidate: Candidate, document: int) -> tuple[NDArray[np.float64], float]:
        away = np.log(candidate.rescale_factors) - self._goals[document]
        return away, math.log(candidate.attention_factor / BEST_ATTENTION)


def spaces() -> dict[str, SearchSpace]:
    """Spaces to try a strategy in: each kind, monotone and free, small and with everything searched."""
    searched = {"start_tokens": (0, 1, 4, 16), "attention_factors": (1.0, 1.05, 1.1, 1.15)}
    given = {"start_tokens": (0,), "attention_factors": (1.1,)}
    found = {}
    for name in ("full", "spline", "longrope2"):
        for monotone in (True, False):
            for what, choices in (("all searched", searched), ("lambda only", given)):
                full = SearchSpace(geometry=GEOMETRY, target_length=TARGET_LENGTH, **choices)
                order = "monotone" if monotone else "free"
                found[f"{name}, {order}, {what}"] = make_space(name, full, monotone=monotone)
    found["full, n-hat searched"] = SearchSpace(geometry=GEOMETRY, target_length=TARGET_LENGTH)
    found["spline, attention searched"] = make_space(
        "spline",
        SearchSpace(
            geometry=GEOMETRY, target_length=1000, start_tokens=(0,), attention_factors=(1.0, 1.05, 1.1)
        ),
    )
    found["full, barely longer"] = SearchSpace(geometry=GEOMETRY, target_length=300)
    return found


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
    case = _Case(strategy, dict(settings or {}), where, budget)
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


# ---------------------------------------------------------------- how a strategy is driven


@dataclass(frozen=True)
class _Asked:
    """One step: what was asked, with the generator's state then, and what was told."""

    query: Query
    generator_state: str
    trial: Trial


@dataclass(frozen=True)
class _Case:
    strategy: str | type[Strategy]
    settings: dict[str, Any]
    space: SearchSpace
    budget: float

    @property
    def objective(self) -> Bowl:
        return Bowl(self.space)

    def task(self, seed: int = 0) -> Task:
        objective = self.objective
        return Task(
            space=self.space,
            seed=seed,
            budget=left_for_strategy(self.budget, objective, self.space),
            evaluation_cost=objective.cost,
            num_documents=objective.num_documents,
            gradient_cost=objective.gradient_cost,
        )

    def make(self, seed: int = 0) -> Strategy:
        """A strategy at its beginning."""
        task = self.task(seed)
        if isinstance(self.strategy, str):
            return make_strategy(self.strategy, task, self.settings)
        settings = getattr(self.strategy, "Settings", None)
        assert settings is not None, "the class has no attribute `Settings`, a dataclass"
        return self.strategy(task, settings(**self.settings))

    def drive(
        self, strategy: Strategy, spoil: Callable[[Trial, Query], Trial] | None = None
    ) -> Iterator[_Asked]:
        """Ask and tell as the loop does; `spoil` makes another trial of the one that was measured."""
        objective = self.objective
        measurer, budget, spent = Measurer(objective, None), self.task().budget, 0.0
        for index in range(self.most_trials):
            query = strategy.ask()
            if query is None:
                return
            _require_documents(query.documents)
            cost = objective.cost_of(query.documents, gradient=query.gradient)
            if spent + cost > budget + 1e-9:
                return
            state = json.dumps(strategy.generator_state())
            trial = _trial(index, query, measurer)
            trial = trial if spoil is None else spoil(trial, query)
            spent += trial.cost
            strategy.tell(trial)
            yield _Asked(query, state, trial)
        raise AssertionError(f"it still asks after {self.most_trials} queries, more than the budget can pay")

    def search(self, journal: Journal | None = None, seed: int = 0) -> SearchOutcome:
        """The real loop."""

        def count(progress: Progress) -> None:
            assert progress.num_trials <= self.most_trials, f"it goes on after {self.most_trials} trials"

        return run_search(self.make(seed), self.objective, journal, budget=self.budget, on_trial=count)

    @property
    def most_trials(self) -> int:
        """The budget in single documents, the cheapest query that there is, and the loop's own check."""
        return math.ceil(self.budget * NUM_DOCUMENTS) + 2


def _trial(index: int, query: Query, measurer: Measurer) -> Trial:
    found = measurer.measure(query, "trial")
    return Trial(
        index=index,
        candidate=query.candidate,
        value=found.value,
        failure=found.failure,
        seconds=0.0,
        cost=found.cost,
        documents=found.documents,
        parts=found.parts,
        gradient=found.gradient,
    )


def _failed(trial: Trial, _: Query) -> Trial:
    return replace(trial, value=None, failure="the value is nan", parts={}, gradient=None)


def _failed_at_times(trial: Trial, query: Query) -> Trial:
    return _failed(trial, query) if trial.index % 3 == 2 else trial


def _dropped_at_times(trial: Trial, query: Query) -> Trial:
    """As a race drops: only what all documents would have been read for, and after some of them."""
    if query.documents is not None or query.gradient or trial.index % 2 == 0:
        return trial
    return replace(
        trial,
        value=None,
        failure="dropped after 1 of 4 documents",
        cost=trial.cost / NUM_DOCUMENTS,
        documents=(0,),
        parts={name: nats[:1] for name, nats in trial.parts.items()},
        estimate=trial.value,
    )


class _Remembered(Journal):
    """A journal that is not on a disk; its trials have been through JSON, as those of a file have."""

    def __init__(self, trials: tuple[Trial, ...] = (), states: tuple[dict[str, Any], ...] = ()) -> None:
        super().__init__(Path("memory"))
        self.trials = [Trial.from_dict(json.loads(json.dumps(trial.as_dict()))) for trial in trials]
        self.generator_states = list(states)
        self.environments = [{}]

    def append(self, trial: Trial, generator_state: dict[str, Any]) -> None:
        self.trials.append(trial)
        self.generator_states.append(json.loads(json.dumps(generator_state)))


# ---------------------------------------------------------------- the contracts


def _queries_are_of_the_space(case: _Case) -> None:
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


def _require_documents(documents: tuple[int, ...] | None) -> None:
    """Before anything is read: the objective itself would only say that an index is out of range."""
    if documents is None:
        return
    assert documents, "a query of no document"
    assert set(documents) <= set(range(NUM_DOCUMENTS)), f"documents {documents} of {NUM_DOCUMENTS}"
    assert len(set(documents)) == len(documents), f"the documents {documents} name one twice"


def _same_seed_same_queries(case: _Case) -> None:
    one, same = (list(case.drive(case.make(seed=5))) for _ in range(2))
    _require_same(one, same, "twice with the same seed")


def _another_seed_differs(case: _Case) -> None:
    strategy = case.make(seed=5)
    task, fresh = case.task(seed=5), np.random.Generator(np.random.PCG64(5))
    one = [asked.query for asked in case.drive(strategy)]
    draws = strategy.generator.bit_generator.state != fresh.bit_generator.state
    other = [asked.query for asked in case.drive(case.make(seed=6))]
    assert task.seed == strategy.task.seed, "it changed its task"
    assert not draws or one != other, "it draws, but seeds 5 and 6 ask for the same"


def _failures_are_survived(case: _Case) -> None:
    for spoil in (_failed_at_times, _failed):
        for asked in case.drive(case.make(), spoil):
            _require_legal(asked.query, case.space)


def _drops_are_survived(case: _Case) -> None:
    for asked in case.drive(case.make(), _dropped_at_times):
        _require_legal(asked.query, case.space)


def _resumed_equals_uninterrupted(case: _Case) -> None:
    journal = _Remembered()
    whole = case.search(journal)
    num = len(whole.trials)
    for cut in sorted({1, 2, 3, num // 3, num // 2, num - 1, num} & set(range(1, num + 1))):
        begun = _Remembered(whole.trials[:cut], tuple(journal.generator_states[:cut]))
        resumed = case.search(begun)
        assert [_timeless(t) for t in resumed.trials] == [_timeless(t) for t in whole.trials], (
            f"resumed after {cut} of {num} trials, it went another way"
        )
        assert begun.generator_states == journal.generator_states, f"the generator differs after {cut} trials"


def _timeless(trial: Trial) -> Trial:
    return replace(trial, seconds=0.0)


def _what_it_is_given_is_not_changed(case: _Case) -> None:
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


def _the_budget_is_kept(case: _Case) -> None:
    for seed in (0, 1):
        outcome, allowed = case.search(seed=seed), case.task().budget
        spent = sum(trial.cost for trial in outcome.trials if trial.kind == "trial")
        assert spent <= allowed + 1e-9, f"its queries cost {spent}, its budget is {allowed}"
        assert outcome.cost <= case.budget + 1e-9, f"the search cost {outcome.cost} of {case.budget}"


def _its_generator_is_told_as_json(case: _Case) -> None:
    strategy = case.make()
    for _ in case.drive(strategy):
        state = strategy.generator_state()
        assert json.loads(json.dumps(state, allow_nan=False)) == state, "its state is not the same after JSON"


def _global_generators_are_left_alone(case: _Case) -> None:
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


def _only_complete_values_are_best(case: _Case) -> None:
    outcome = case.search()
    best = outcome.best
    assert best.is_complete, "the best was not read on all documents"
    values = [t.value for t in outcome.trials if t.is_complete and t.value is not None]
    assert best.value == min(values), "another trial of all documents is better"
    again = Measurer(case.objective, None).measure(Query(candidate=best.candidate), "trial")
    assert best.value == again.value, "its value is not the one that its candidate has"


def _require_same(one: list[_Asked], other: list[_Asked], when: str) -> None:
    for index, (ours, theirs) in enumerate(zip(one, other, strict=False)):
        assert ours.query == theirs.query, f"query {index} differs, {when}"
        assert ours.generator_state == theirs.generator_state, (
            f"the generator differs at query {index}, {when}"
        )
    assert len(one) == len(other), f"{len(one)} and {len(other)} queries, {when}"


CONTRACTS: Mapping[str, Callable[[_Case], None]] = {
    "queries are of the space": _queries_are_of_the_space,
    "same seed, same queries": _same_seed_same_queries,
    "another seed differs": _another_seed_differs,
    "failures are survived": _failures_are_survived,
    "drops are survived": _drops_are_survived,
    "resumed equals uninterrupted": _resumed_equals_uninterrupted,
    "what it is given is not changed": _what_it_is_given_is_not_changed,
    "the budget is kept": _the_budget_is_kept,
    "its generator is told as JSON": _its_generator_is_told_as_json,
    "global generators are left alone": _global_generators_are_left_alone,
    "only complete values are best": _only_complete_values_are_best,
}
