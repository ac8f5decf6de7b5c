"""An example of a search strategy: change one knot at a time, up and down, with steps that halve.

    PYTHONPATH=examples ropewalk search scale-model --target-length 8x --budget 27 \\
        --strategy coordinate_search:CoordinateSearch --out runs/coordinates

A strategy returns queries from `ask` and gets their trials by `tell`; it never sees a model.
`ropewalk.testing.check_strategy` checks the rules that every strategy must follow.
"""

from dataclasses import dataclass

import numpy as np

from ropewalk.search.space import Candidate
from ropewalk.search.strategies.base import Strategy, Task
from ropewalk.search.strategies.initial_candidates import first_candidates
from ropewalk.search.trial import Query, Trial


@dataclass(frozen=True, kw_only=True)
class CoordinateSettings:
    """The first step in ln lambda, and the closed-form scheme to start from."""

    step: float = 0.3
    scheme: str = "yarn"


class CoordinateSearch(Strategy):
    """Tries a step along one coordinate from the best candidate; the steps of each round are half as long."""

    Settings = CoordinateSettings
    settings: CoordinateSettings

    def __init__(self, task: Task, settings: CoordinateSettings) -> None:
        super().__init__(task, settings)
        self.best, self.lowest = first_candidates(task.space, [settings.scheme])[0], np.inf
        self.step, self.moves = settings.step, list[tuple[int, int]]()

    def ask(self) -> Query | None:
        if self.lowest == np.inf:
            return Query(candidate=self.best)
        candidate = self._fresh(self._next)
        return None if candidate is None else Query(candidate=candidate)

    def tell(self, trial: Trial) -> None:
        if trial.value is not None and trial.value < self.lowest:
            self.best, self.lowest = trial.candidate, trial.value

    def _next(self) -> Candidate:
        if not self.moves:
            order = self.generator.permutation(self.space.num_knots)
            self.moves = [(int(knot), sign) for knot in order for sign in (1, -1)]
            self.step /= 2
        knot, sign = self.moves.pop()
        at = self.space.coordinates(self.best)
        at[knot] += sign * self.step
        return self.space.nearest(at, self.best.num_start_tokens)
