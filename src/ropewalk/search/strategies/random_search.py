"""Uniform draws from the space: the floor that a strategy must beat."""

from dataclasses import dataclass

import numpy as np

from ropewalk.search.space import Candidate
from ropewalk.search.strategies.base import Strategy
from ropewalk.search.trial import Trial


@dataclass(frozen=True, kw_only=True)
class RandomSettings:
    """There is nothing to set."""


class RandomSearch(Strategy):
    """Every candidate alike, whatever the others gave."""

    def ask(self) -> Candidate | None:
        return self._fresh(self._draw)

    def tell(self, trial: Trial) -> None:
        """Nothing is learned."""

    def _draw(self) -> Candidate:
        # Sorted draws are uniform over the monotone vectors, up to ties.
        levels = np.sort(self.generator.integers(0, self.space.highest_level + 1, size=self.space.num_pairs))
        return self.space.candidate(
            levels,
            self.space.start_tokens[self.generator.integers(len(self.space.start_tokens))],
            self.space.attention_factors[self.generator.integers(len(self.space.attention_factors))],
        )
