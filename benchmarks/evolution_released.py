"""The search of LongRoPE's released code, written afresh from a description of what it does.

It differs from the paper's Algorithm 1, `evolution`, in this:

    first population    YaRN (the coded ramp) and mutations of it; no PI, no NTK
    crossover           stops at the first legal change: a child differs from its parent in one pair
    bounds              lambda up to 1 + s instead of 1.25 s
    start tokens        none

Where it is silent about draws, the rules of `evolution` hold. For `benchmarks/search_race.py` only.
"""

from collections.abc import Sequence
from typing import ClassVar

from ropewalk.search.space import Candidate, Levels
from ropewalk.search.strategies.base import Task
from ropewalk.search.strategies.evolution import Evolution, EvolutionSettings
from ropewalk.search.strategies.initial_candidates import first_candidates


class ReleasedEvolution(Evolution):
    """`Evolution` with the released code's first population, crossover and bounds."""

    Settings: ClassVar[type] = EvolutionSettings
    first_schemes = ("yarn",)

    def __init__(self, task: Task, settings: EvolutionSettings) -> None:
        self._highest = round(task.space.extension_ratio / task.space.step)  # lambda = 1 + s
        super().__init__(task, settings)
        assert first_candidates(task.space, self.first_schemes) == self._first

    def _range(self, levels: Levels, pair: int) -> tuple[int, int]:
        lowest, end = super()._range(levels, pair)
        return lowest, min(end, self._highest + 1)

    def _cross(self, parents: Sequence[Candidate]) -> Candidate:
        one, other = (parents[int(i)] for i in self.generator.choice(len(parents), size=2, replace=False))
        levels, theirs = self.space.levels(one), self.space.levels(other)
        for pair in self.generator.permutation(len(levels)):
            changed = levels.copy()
            changed[pair] = theirs[pair]
            if changed[pair] != levels[pair] and (self.space.legal(changed) == changed).all():
                return self.space.candidate(changed, 0, one.attention_factor)
        return one
