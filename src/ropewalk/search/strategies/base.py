"""Strategy: `ask` returns the next query, `tell` takes its trial. It sees no model and no text."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ropewalk.search.space import Candidate, SearchSpace
from ropewalk.search.trial import Query, Trial

NUM_RETRIES = 100


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a strategy knows of the search before it begins.

    Attributes:
        budget: what it may spend, in forward passes over the whole document set; what the loop reserves
            for its own trials is not in it.
        evaluation_cost: what a value of all documents costs, in forward passes; above 1 where an objective
            reads more than each document once.
        num_documents: search documents; a query may name some of them.
        gradient_cost: what a value with its gradient costs, in values of the same documents.
    """

    space: SearchSpace
    seed: int
    budget: float
    evaluation_cost: float = 1.0
    num_documents: int = 1
    gradient_cost: float = 3.0

    @property
    def num_evaluations(self) -> float:
        """How many values of all documents the budget pays for."""
        return self.budget / self.evaluation_cost


class Strategy(ABC):
    """Ask, evaluate elsewhere, tell; every draw comes from one generator, made from the seed.

    So a strategy that is built again and given the same trials returns the same queries, which is how a run
    is resumed. Each query is followed by its trial before the next query.

    Attributes:
        Settings: the class of its settings: a dataclass whose fields have defaults.
        settings: what a repetition needs besides the task.
    """

    Settings: ClassVar[type]

    def __init__(self, task: Task, settings: Any) -> None:
        self.task = task
        self.space = task.space
        self.settings = settings
        self.generator = np.random.Generator(np.random.PCG64(task.seed))
        self._seen: set[Candidate] = set()

    @abstractmethod
    def ask(self) -> Query | None:
        """The next query; None if nothing new could be found."""

    @abstractmethod
    def tell(self, trial: Trial) -> None:
        """Take the trial of the last query."""

    def ask_ahead(self) -> Iterable[Query]:
        """The queries that `ask` returns after the last one whatever the trials are; none unless overridden.

        They are read before the next `tell`, as far as workers have time for them, and change nothing.
        """
        return ()

    def generator_state(self) -> dict[str, Any]:
        """The generator's state as JSON values; its 128-bit numbers are text."""
        state = self.generator.bit_generator.state
        return {
            "bit_generator": state["bit_generator"],
            "state": str(state["state"]["state"]),
            "inc": str(state["state"]["inc"]),
            "has_uint32": state["has_uint32"],
            "uinteger": state["uinteger"],
        }

    def _fresh(self, draw: Callable[[], Candidate]) -> Candidate | None:
        """The first draw that was never drawn before, or None after `NUM_RETRIES` draws."""
        for _ in range(NUM_RETRIES):
            candidate = draw()
            if candidate not in self._seen:
                self._seen.add(candidate)
                return candidate
        return None
