"""Runs a strategy for the checks of its contracts, query by query or with the search loop."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ropewalk.search.budget import strategy_budget
from ropewalk.search.evaluation import Evaluator
from ropewalk.search.journal import Journal
from ropewalk.search.loop import SearchLoop
from ropewalk.search.outcome import SearchOutcome, SearchProgress
from ropewalk.search.space import SearchSpace
from ropewalk.search.strategies import Strategy, Task, make_strategy
from ropewalk.search.trial import Query, Trial
from ropewalk.testing.quadratic_objective import NUM_DOCUMENTS, QuadraticObjective


@dataclass(frozen=True)
class RecordedQuery:
    """One query of a strategy, the state of its generator after `ask`, and the trial for `tell`."""

    query: Query
    generator_state: str
    trial: Trial


@dataclass(frozen=True)
class ContractCase:
    """A strategy, and the search that it is checked in.

    Attributes:
        strategy: a name or a class.
        settings: the strategy's settings that differ from its defaults.
        budget: of a whole search, in forward passes over all documents.
    """

    strategy: str | type[Strategy]
    settings: dict[str, Any]
    space: SearchSpace
    budget: float

    @property
    def objective(self) -> QuadraticObjective:
        """A new objective."""
        return QuadraticObjective(self.space)

    def task(self, seed: int = 0) -> Task:
        """Returns the strategy's task."""
        objective = self.objective
        return Task(
            space=self.space,
            seed=seed,
            budget=strategy_budget(self.budget, objective, self.space),
            evaluation_cost=objective.cost,
            num_documents=objective.num_documents,
            gradient_cost=objective.gradient_cost,
        )

    def make(self, seed: int = 0) -> Strategy:
        """Returns a new strategy."""
        task = self.task(seed)
        if isinstance(self.strategy, str):
            return make_strategy(self.strategy, task, self.settings)
        settings = getattr(self.strategy, "Settings", None)
        assert settings is not None, "the class has no attribute `Settings`, a dataclass"
        return self.strategy(task, settings(**self.settings))

    def drive(
        self, strategy: Strategy, spoil: Callable[[Trial, Query], Trial] | None = None
    ) -> Iterator[RecordedQuery]:
        """Yields each step of a search that asks and tells as the loop does.

        Args:
            spoil: replaces a measured trial by another one.
        """
        objective = self.objective
        evaluator, budget, spent = Evaluator(objective), self.task().budget, 0.0
        for index in range(self.most_trials):
            query = strategy.ask()
            if query is None:
                return
            _require_documents(query.documents)
            cost = objective.cost_of(query.documents, gradient=query.gradient)
            if spent + cost > budget + 1e-9:
                return
            state = json.dumps(strategy.generator_state())
            trial = _trial(index, query, evaluator)
            trial = trial if spoil is None else spoil(trial, query)
            spent += trial.cost
            strategy.tell(trial)
            yield RecordedQuery(query, state, trial)
        raise AssertionError(f"it asks for more than {self.most_trials} queries, which the budget can't pay")

    def search(self, journal: Journal | None = None, seed: int = 0) -> SearchOutcome:
        """Returns the outcome of the search loop."""

        def count(progress: SearchProgress) -> None:
            assert progress.num_trials <= self.most_trials, f"it has more than {self.most_trials} trials"

        return SearchLoop(self.make(seed), self.objective, journal, budget=self.budget, on_trial=count).run()

    @property
    def most_trials(self) -> int:
        """The budget in queries of one document, the cheapest ones, and the loop's own checks."""
        return math.ceil(self.budget * NUM_DOCUMENTS) + 2


def _require_documents(documents: tuple[int, ...] | None) -> None:
    """Checks the documents of a query before the objective raises an IndexError."""
    if documents is None:
        return
    assert documents, "a query has no document"
    assert set(documents) <= set(range(NUM_DOCUMENTS)), f"documents {documents} of {NUM_DOCUMENTS}"
    assert len(set(documents)) == len(documents), f"a document appears twice in {documents}"


def _trial(index: int, query: Query, evaluator: Evaluator) -> Trial:
    found = evaluator.evaluate(query)
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


def failed(trial: Trial, _: Query) -> Trial:
    """Returns the trial as it is if its value is not finite."""
    return replace(trial, value=None, failure="the value is nan", parts={}, gradient=None)


def every_third_failed(trial: Trial, query: Query) -> Trial:
    """Returns every third trial as failed."""
    return failed(trial, query) if trial.index % 3 == 2 else trial


class MemoryJournal(Journal):
    """A journal in memory; its trials are converted to JSON and back, as in a file."""

    def __init__(self, trials: tuple[Trial, ...] = (), states: tuple[dict[str, Any], ...] = ()) -> None:
        super().__init__(Path("memory"))
        self.trials = [Trial.from_dict(json.loads(json.dumps(trial.as_dict()))) for trial in trials]
        self.generator_states = list(states)
        self.environments = [{}]

    def append(self, trial: Trial, generator_state: dict[str, Any]) -> None:
        """Keeps a trial."""
        self.trials.append(trial)
        self.generator_states.append(json.loads(json.dumps(generator_state)))
