"""Uniform draws from the space: the baseline that a strategy must beat."""

from collections.abc import Iterable
from copy import copy, deepcopy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ropewalk.search.space import Candidate
from ropewalk.search.strategies.base import Strategy
from ropewalk.search.trial import Query, Trial


@dataclass(frozen=True, kw_only=True)
class RandomSettings:
    """Random search has no settings."""


class RandomSearch(Strategy):
    """Candidates that are independent of all trials."""

    Settings: ClassVar[type] = RandomSettings

    def ask(self) -> Query | None:
        candidate = self._fresh(self._draw)
        return None if candidate is None else Query(candidate=candidate)

    def ask_ahead(self) -> Iterable[Query]:
        """All that follow."""
        ahead = copy(self)
        ahead.generator, ahead._seen = deepcopy(self.generator), set(self._seen)
        yield from iter(ahead.ask, None)

    def tell(self, trial: Trial) -> None:
        """Does nothing: draws do not depend on trials."""

    def _draw(self) -> Candidate:
        levels = self.generator.integers(0, self.space.highest_level + 1, size=self.space.num_knots)
        if self.space.monotone:
            levels = np.sort(levels)  # uniform over the monotone vectors, up to ties
        return self.space.candidate(
            levels,
            self.space.start_tokens[self.generator.integers(len(self.space.start_tokens))],
            self.space.attention_factors[self.generator.integers(len(self.space.attention_factors))],
        )
