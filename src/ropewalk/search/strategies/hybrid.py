"""Descent along the gradient, then a polish on the true objective: values of all documents, n-hat among them.

The polish is a (1+1) evolution strategy with the 1/5 rule (Rechenberg 1973) in the space's coordinates: small
normal steps from the best, longer after a success, shorter after failures. It finds improvements
that the gradient of one document at a time can't distinguish from noise.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from ropewalk.errors import SettingError
from ropewalk.search.space import Candidate
from ropewalk.search.strategies.base import Strategy, Task
from ropewalk.search.strategies.gradient import Gradient, GradientSettings
from ropewalk.search.trial import Query, Trial

LONGER, SHORTER = math.exp(0.8), math.exp(-0.2)  # balanced at one success in five


@dataclass(frozen=True, kw_only=True)
class HybridSettings(GradientSettings):
    """Settings of the descent and of the polish.

    Attributes:
        polish_share: of the budget.
        polish_step: the first steps' size in ln lambda.
        start_token_probability: that a polishing step redraws n-hat, where it is searched.

    Raises:
        SettingError: a value out of its range.
    """

    start_token_share: float = 0.0
    polish_share: float = 0.3
    polish_step: float = 0.03
    start_token_probability: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (
            0 < self.polish_share < 1 and self.polish_step > 0 and 0 <= self.start_token_probability <= 1
        ):
            raise SettingError(
                f"The polish has a share of {self.polish_share}, steps of {self.polish_step} and redraws "
                f"n-hat with {self.start_token_probability}, but needs 0 .. 1, above 0, and 0 .. 1."
            )


class Hybrid(Strategy):
    """`Gradient` for the first share of the budget, then the polish."""

    Settings: ClassVar[type] = HybridSettings
    settings: HybridSettings

    def __init__(self, task: Task, settings: HybridSettings) -> None:
        super().__init__(task, settings)
        before = replace(task, budget=(1 - settings.polish_share) * task.budget)
        self._gradient = Gradient(before, settings)
        self._gradient.generator = self.generator  # one generator, so one state restores all
        self._polishing = False
        self._best: Trial | None = None
        self._step = settings.polish_step

    def ask(self) -> Query | None:
        if not self._polishing:
            query = self._gradient.ask()
            if query is not None:
                return query
            self._polishing = True
        if self._best is None:
            return None
        candidate = self._fresh(self._draw)
        return None if candidate is None else Query(candidate=candidate)

    def ask_ahead(self) -> Iterable[Query]:
        """Those of the descent."""
        return () if self._polishing else self._gradient.ask_ahead()

    def tell(self, trial: Trial) -> None:
        better = trial.is_complete and (self._best is None or trial.rank < self._best.rank)
        if better:
            self._best = trial
        if self._polishing:
            self._step *= LONGER if better else SHORTER
        else:
            self._gradient.tell(trial)

    def _draw(self) -> Candidate:
        assert self._best is not None
        best = self._best.candidate
        noise = self.generator.standard_normal(self.space.num_coordinates)
        noise[-1] *= self.settings.attention_rate if self.space.searches_attention else 0.0
        count = best.num_start_tokens
        if (
            self.space.searches_start_tokens
            and self.generator.random() < self.settings.start_token_probability
        ):
            count = int(self.generator.choice(self.space.start_tokens))
        return self.space.nearest(self.space.coordinates(best) + self._step * noise, count)
