"""Descent along the gradient of the frozen model, one document per step.

cos and sin are differentiable in lambda, so that one forward and one backward pass give the direction of
every knot at once, at the cost of about three forward passes. Its parts (docs/what-did-not-work.md measures
each):

    few knots        the loss along fast pairs is rugged: their angles turn many times within the text. On a
                     curve with few knots there, what only fits one document averages out
    short steps      there, for the same reason: by the square root of the turns that a pair makes over the
                     trained window, from 2 turns on
    one document     a step on a part of the documents costs a part; its noise is that of documents, which is
                     what the result must generalize over anyway. If there is only one document, a step
                     reads everything, and its value counts like any other
    Adam             knots differ in slope by orders of magnitude, but need steps of alike size in ln lambda
    the ends         the last iterate is evaluated on all documents, and so is the start, if it was compared
                     with other closed forms on some of them only. The mean of the last iterates can be tried
                     too; it is seldom the best

Closed forms are compared first, and the descent starts from the best of them: where a ramp should begin, a
gradient can't find in the rugged part of the loss, but their values show it.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ropewalk.errors import SettingError
from ropewalk.search.space import Candidate, Coordinates
from ropewalk.search.strategies.base import Strategy, Task
from ropewalk.search.strategies.initial_candidates import INITIAL_SCHEMES, first_candidates, with_start_tokens
from ropewalk.search.trial import Query, Trial


@dataclass(frozen=True, kw_only=True)
class GradientSettings:
    """Settings of the descent.

    Attributes:
        schemes: closed forms that are evaluated first.
        start_documents: the number of documents on which they are compared, so that more of the budget is
            left for steps; 0 for all documents.
        learning_rate: the first steps' size in ln lambda.
        full_rate_turns: over the window; pairs that turn more often take steps shorter by the square root.
        attention_rate: that of ln attention, in units of `learning_rate`.
        decay_share: the last share of the steps, over which their size falls to 0.
        beta1, beta2: Adam's (Kingma and Ba, arXiv 1412.6980).
        average_share: the last share of the iterates, whose mean is tried too.
        start_token_share: of the budget, for trying n-hat on the best candidate.

    Raises:
        SettingError: a value out of its range.
    """

    schemes: tuple[str, ...] = (*INITIAL_SCHEMES, "yarn:beta_fast=16", "mrrope-pro")
    start_documents: int = 8
    learning_rate: float = 0.08
    full_rate_turns: float = 2.0
    attention_rate: float = 0.3
    decay_share: float = 0.5
    beta1: float = 0.8
    beta2: float = 0.95
    average_share: float = 0.0
    start_token_share: float = 0.1

    def __post_init__(self) -> None:
        if not self.schemes:
            raise SettingError("No scheme is given for the descent to start from: name at least one.")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise SettingError(f"The learning rate is {self.learning_rate}, but must be above 0.")
        if self.start_documents < 0:
            raise SettingError(f"`start_documents` is {self.start_documents}, but must be at least 0.")
        if not self.full_rate_turns > 0:
            raise SettingError(f"`full_rate_turns` is {self.full_rate_turns}, but must be above 0.")
        for name in ("attention_rate", "decay_share", "average_share", "start_token_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingError(f"`{name}` is {getattr(self, name)}, but must be in 0 .. 1.")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise SettingError(f"The betas are {self.beta1} and {self.beta2}, but must be in 0 .. 1.")


class Descent:
    """Adam on coordinates, clipped to the space; `Gradient` decides on which documents.

    Attributes:
        at: the coordinates now, not on the grid.
    """

    def __init__(
        self, start: Coordinates, rates: Coordinates, num_steps: int, settings: GradientSettings
    ) -> None:
        self.at = start
        self.num_steps = num_steps
        self.settings = settings
        self._rates = rates
        self._first = np.zeros_like(start)
        self._second = np.zeros_like(start)
        self._iterates: list[Coordinates] = []

    @property
    def num_done(self) -> int:
        return len(self._iterates)

    @property
    def is_done(self) -> bool:
        return self.num_done >= self.num_steps

    def step(self, gradient: Coordinates) -> Coordinates:
        """The next coordinates from the gradient at `at`; the caller clips them to the space."""
        settings, number = self.settings, len(self._iterates) + 1
        self._first = settings.beta1 * self._first + (1 - settings.beta1) * gradient
        self._second = settings.beta2 * self._second + (1 - settings.beta2) * gradient**2
        mean = self._first / (1 - settings.beta1**number)
        spread = np.sqrt(self._second / (1 - settings.beta2**number)) + 1e-12
        left = (self.num_steps - number + 1) / max(1.0, settings.decay_share * self.num_steps)
        moved: Coordinates = self.at - settings.learning_rate * min(1.0, left) * self._rates * mean / spread
        return moved

    def arrive(self, at: Coordinates) -> None:
        """Ends the step at these coordinates."""
        self.at = at
        self._iterates.append(at)

    def average(self) -> Coordinates:
        """The mean of the last iterates."""
        count = max(1, round(self.settings.average_share * len(self._iterates)))
        mean: Coordinates = np.mean(self._iterates[-count:], axis=0)
        return mean


class Gradient(Strategy):
    """Initial candidates, descent, last iterate and start on all documents, then n-hat if it is searched."""

    Settings: ClassVar[type] = GradientSettings
    settings: GradientSettings

    def __init__(self, task: Task, settings: GradientSettings) -> None:
        super().__init__(task, settings)
        self._starts = first_candidates(task.space, settings.schemes)
        self._waiting = list(self._starts)
        self._start: Trial | None = None  # the best initial candidate
        self._best: Trial | None = None
        self._cost = 0.0
        self._descent: Descent | None = None
        self._documents: list[int] = []
        self._phase = "starts"

    def ask(self) -> Query | None:
        if not self._waiting and self._phase == "starts":
            self._begin()
        if self._phase == "descent":
            assert self._descent is not None
            if not self._descent.is_done:
                return self._next_step(self._descent)
            self._end(self._descent)
        if not self._waiting and self._phase == "ends":
            self._try_start_tokens()
        return self._query(self._waiting[0]) if self._waiting else None

    def _query(self, candidate: Candidate) -> Query:
        """Of a candidate whose value is compared with others'."""
        few = self.settings.start_documents if self._phase == "starts" else 0
        documents = tuple(range(few)) if 0 < few < self.task.num_documents else None
        return Query(candidate=candidate, documents=documents)

    def ask_ahead(self) -> Iterable[Query]:
        """The rest of the initial candidates, of the ends, or of the n-hats."""
        return map(self._query, self._waiting[1:])

    def tell(self, trial: Trial) -> None:
        self._cost += trial.cost
        if self._phase == "descent":
            self._advance(trial)
        else:
            self._waiting.pop(0)
        if self._phase == "starts" and trial.value is not None:
            self._start = min(self._start or trial, trial, key=lambda one: one.rank)
        if trial.is_complete and (self._best is None or trial.rank < self._best.rank):
            self._best = trial

    def _begin(self) -> None:
        """Starts from the best initial candidate, with as many steps as the rest of the budget allows."""
        start = self._start.candidate if self._start else self._starts[0]
        num_ends = len(self._ends(start, start))
        for_start_tokens = self._num_start_token_trials()
        spent = self._cost / self.task.evaluation_cost
        left = self.task.num_evaluations - spent - num_ends - for_start_tokens
        num_steps = int(left * self.task.num_documents / self.task.gradient_cost + 1e-9)
        at = self.space.coordinates(start)
        self._descent = Descent(at, self._knot_rates(), max(1, num_steps), self.settings)
        self._phase = "descent"

    def _knot_rates(self) -> Coordinates:
        """Of each coordinate, in units of the learning rate."""
        turns = self.space.geometry.turns()[self.space.knot_pairs]
        of_knots = np.minimum(1.0, np.sqrt(self.settings.full_rate_turns / turns))
        num_attention = self.space.num_coordinates - self.space.num_knots
        rates: Coordinates = np.append(of_knots, [self.settings.attention_rate] * num_attention)
        return rates

    def _nearest(self, coordinates: Coordinates) -> Candidate:
        """The nearest candidate, with the near window of the start."""
        start = self._start.candidate if self._start else self._starts[0]
        return self.space.nearest(coordinates, near_window=start.near_window if start.near_window else None)

    def _next_step(self, descent: Descent) -> Query:
        if not self._documents:
            self._documents = self.generator.permutation(self.task.num_documents).tolist()
        documents = (self._documents[-1],) if self.task.num_documents > 1 else None
        # Facts are drawn again for each step, so that the descent can't fit those of one draw. But the value
        # of a step that reads everything counts, and only values of draw 0 can be compared.
        return Query(
            candidate=self._nearest(descent.at),
            documents=documents,
            gradient=True,
            draw=0 if documents is None else descent.num_done + 1,
        )

    def _advance(self, trial: Trial) -> None:
        assert self._descent is not None
        self._documents.pop()
        # A step that failed does not move; the momentum of the others stays.
        gradient = np.zeros_like(self._descent.at) if trial.gradient is None else np.array(trial.gradient)
        self._descent.arrive(self.space.clip(self._descent.step(gradient)))

    def _end(self, descent: Descent) -> None:
        ends = self._ends(self._nearest(descent.average()), self._nearest(descent.at))
        self._waiting = list(dict.fromkeys(ends))
        self._phase = "ends"

    def _ends(self, average: Candidate, last: Candidate) -> list[Candidate]:
        """What is evaluated after the descent, also the start if it was not evaluated on all documents."""
        ends = [average, last] if self.settings.average_share else [last]
        return ends if self._best or self._start is None else [*ends, self._start.candidate]

    def _num_start_token_trials(self) -> int:
        searched = self.space.searches_start_tokens
        return int(self.settings.start_token_share * self.task.num_evaluations) if searched else 0

    def _try_start_tokens(self) -> None:
        if self._best is not None:
            self._waiting = with_start_tokens(
                self.space, self._best.candidate, self._num_start_token_trials()
            )
        self._phase = "n-hat"
