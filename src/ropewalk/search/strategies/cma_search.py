"""CMA-ES (Hansen, arXiv 1604.00772; pycma) in the space's coordinates: ln lambda of the knots, ln attention.

It learns which directions matter from values alone, so it needs no gradient, but more evaluations. n-hat is
no continuous coordinate: it stays 0, and the last share of the budget tries its list on the best candidate.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ropewalk.errors import SettingError
from ropewalk.search.space import Candidate, Coordinates
from ropewalk.search.strategies.base import Strategy, Task
from ropewalk.search.strategies.initial_candidates import INITIAL_SCHEMES, first_candidates, with_start_tokens
from ropewalk.search.trial import Query, Trial


@dataclass(frozen=True, kw_only=True)
class CmaSettings:
    """Settings of CMA-ES.

    Attributes:
        schemes: closed forms that are evaluated first; the best is the first mean.
        step_size: the first standard deviation of ln lambda at a knot.
        population_size: of a generation; 0 takes pycma's own, 4 + 3 ln(number of coordinates).
        start_token_share: of the budget, for trying n-hat on the best candidate.

    Raises:
        SettingError: a value out of its range.
    """

    schemes: tuple[str, ...] = INITIAL_SCHEMES
    step_size: float = 0.15
    population_size: int = 0
    start_token_share: float = 0.1

    def __post_init__(self) -> None:
        if not self.schemes:
            raise SettingError("No scheme is given for CMA-ES to begin with: name at least one.")
        if not (self.step_size > 0 and math.isfinite(self.step_size)):
            raise SettingError(f"The step size is {self.step_size}, but must be above 0.")
        if self.population_size < 0 or self.population_size == 1:
            raise SettingError(f"The population is {self.population_size}, but must be 0 or at least 2.")
        if not 0 <= self.start_token_share < 1:
            raise SettingError(f"The share for n-hat is {self.start_token_share}, but must be in 0 .. 1.")


class Cma(Strategy):
    """Initial candidates, then generations until the budget is spent, then n-hat where it is searched."""

    Settings: ClassVar[type] = CmaSettings
    settings: CmaSettings

    def __init__(self, task: Task, settings: CmaSettings) -> None:
        super().__init__(task, settings)
        self._starts = first_candidates(task.space, settings.schemes)
        self._waiting = list(self._starts)
        self._seen.update(self._waiting)
        self._points: list[Coordinates] = []
        self._told: list[float] = []
        self._evolution: Any = None
        self._best: Trial | None = None
        self._cost = 0.0
        self._start_tokens: list[Candidate] | None = None

    def ask(self) -> Query | None:
        if self._start_tokens is None and self._is_time_for_start_tokens():
            assert self._best is not None
            most = int(self.settings.start_token_share * self.task.num_evaluations)
            self._start_tokens = with_start_tokens(self.space, self._best.candidate, most)
        if self._start_tokens is not None:
            return Query(candidate=self._start_tokens[0]) if self._start_tokens else None
        if not self._waiting:
            self._next_generation()
        return Query(candidate=self._waiting[0])

    def tell(self, trial: Trial) -> None:
        self._cost += trial.cost
        if trial.value is not None and (self._best is None or trial.rank < self._best.rank):
            self._best = trial
        if self._start_tokens is not None:
            self._start_tokens.pop(0)
            return
        self._waiting.pop(0)
        if self._evolution is not None:
            # A failure counts as twice the worst value, because pycma needs a rank for each point.
            self._told.append(2 * max([*self._told, 1.0]) if trial.value is None else trial.value)
            if not self._waiting:
                self._evolution.tell(self._points, [math.log(value) for value in self._told])

    def _is_time_for_start_tokens(self) -> bool:
        left = self.task.budget - self._cost
        return (
            self.space.searches_start_tokens
            and self._best is not None
            and self._evolution is not None
            and left <= self.settings.start_token_share * self.task.budget
        )

    def _next_generation(self) -> None:
        if self._evolution is None:
            self._evolution = self._begin()
        self._points = self._evolution.ask()
        self._told = []
        self._waiting = [self.space.nearest(self._whole(point)) for point in self._points]

    def _begin(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pycma asks for optional packages as it is imported
            import cma  # noqa: PLC0415 (slow to import)

        mean = self.space.coordinates(self._best.candidate if self._best else self._starts[0])
        options = {
            "seed": math.nan,  # it must not seed numpy's global generator
            "randn": lambda *shape: self.generator.standard_normal(shape),
            "verbose": -9,
            "maxiter": math.inf,
            "tolfun": 0,
            "tolx": 0,
            "tolstagnation": 0,
            "tolflatfitness": math.inf,
        }
        if self.settings.population_size:
            options["popsize"] = self.settings.population_size
        return cma.CMAEvolutionStrategy(self._searched(mean), self.settings.step_size, options)

    def _searched(self, coordinates: Coordinates) -> Coordinates:
        """Those that pycma moves: without the attention factor where that is given."""
        return coordinates if self.space.searches_attention else coordinates[:-1]

    def _whole(self, point: Coordinates) -> Coordinates:
        if self.space.searches_attention:
            return np.asarray(point)
        return np.append(point, math.log(self.space.attention_factors[0]))
