"""The paper's evolution from the initial candidates of the default search, for a number of candidates.

From kept keys a candidate costs less than an evaluation, so that a budget in evaluations does not say how
many candidates are judged. For `benchmarks/facts.py` only.
"""

from dataclasses import dataclass
from typing import ClassVar

from ropewalk.errors import SettingError
from ropewalk.search.strategies.base import Task
from ropewalk.search.strategies.evolution import Evolution, EvolutionSettings
from ropewalk.search.strategies.gradient import GradientSettings
from ropewalk.search.trial import Query


@dataclass(frozen=True, kw_only=True)
class CountedSettings(EvolutionSettings):
    """Attributes:
    num_candidates: after which the strategy has no further query.
    """

    num_candidates: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_candidates < 1:
            raise SettingError(f"`num_candidates` is {self.num_candidates}, but must be at least 1.")


class CountedEvolution(Evolution):
    """`Evolution` with the default search's initial candidates, until N candidates were asked for."""

    Settings: ClassVar[type] = CountedSettings
    first_schemes = GradientSettings().schemes

    def __init__(self, task: Task, settings: CountedSettings) -> None:
        super().__init__(task, settings)
        self._num_left = settings.num_candidates

    def ask(self) -> Query | None:
        if not self._num_left:
            return None
        self._num_left -= 1
        return super().ask()
