"""Candidates around YaRN, drawn by the evolution's own mutation."""

from typing import ClassVar

from ropewalk.search.space import Candidate, SearchSpace
from ropewalk.search.strategies.base import Task
from ropewalk.search.strategies.evolution import Evolution, EvolutionSettings

MUTATIONS = (1, 2, 4, 8)  # of YaRN, one after the other: more of them lead further away


class AroundYarn(Evolution):
    """An evolution whose first population is YaRN, and mutations of it."""

    first_schemes: ClassVar[tuple[str, ...]] = ("yarn",)

    def _first_population(self) -> list[Candidate]:
        found = list(self._first)
        for index in range(self.settings.population_size):
            candidate = self._first[0]
            for _ in range(MUTATIONS[index % len(MUTATIONS)]):
                candidate = self._mutate(candidate)
            found.append(candidate)
        return found


def around_yarn(space: SearchSpace, number: int, seed: int) -> list[Candidate]:
    """YaRN as a candidate of the space, and this number of mutations of it."""
    task = Task(space=space, seed=seed, budget=number + 1)
    strategy = AroundYarn(task, EvolutionSettings(population_size=number))
    queries = [strategy.ask() for _ in range(number + 1)]
    return [query.candidate for query in queries if query is not None]
