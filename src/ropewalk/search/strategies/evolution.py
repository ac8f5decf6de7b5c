"""The evolution of LongRoPE (arXiv 2402.13753, Algorithm 1), with rules where the paper has none.

    first population   PI, NTK and YaRN (the coded ramp) with n-hat 0, and mutations of them
    each iteration     parents = the best of all that was tried; children = mutations + crossovers

The paper does not say how children are drawn, only that those which break the monotone rule are not
evaluated; drawn over the whole range nearly all of them would. Here no child breaks it:

    mutation    in pair order, each pair is redrawn with probability p on the grid between the pair before
                it (as redrawn) and the pair after it; n-hat, and a searched attention factor, with
                probability p from its list
    crossover   of two different parents: each pair, n-hat and attention factor from either with
                probability 1/2; a pair below the one before it is raised to it

Candidates that were tried before are drawn again, a bounded number of times; what is still missing then
is left out of that iteration.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

from ropewalk.errors import SettingError
from ropewalk.search.space import Candidate, Levels
from ropewalk.search.strategies.base import Strategy, Task
from ropewalk.search.strategies.initial_candidates import first_candidates
from ropewalk.search.trial import Query, Trial

FIRST_SCHEMES = ("pi", "ntk", "yarn")

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, kw_only=True)
class EvolutionSettings:
    """The paper's values, up to 256k tokens; above 512k it halves population and children.

    Attributes:
        population_size: P, the first population.
        num_mutations, num_crossovers: N1 and N2, children of each iteration.
        num_parents: the best that children descend from.
        mutation_probability: p.

    Raises:
        SettingError: a value out of its range.
    """

    population_size: int = 64
    num_mutations: int = 16
    num_crossovers: int = 16
    num_parents: int = 32
    mutation_probability: float = 0.3

    def __post_init__(self) -> None:
        if self.population_size < 1 or self.num_parents < 2:
            raise SettingError(
                f"The evolution has a population of {self.population_size} and {self.num_parents} parents, "
                f"but needs at least 1 and 2."
            )
        if min(self.num_mutations, self.num_crossovers) < 0 or self.num_mutations + self.num_crossovers < 1:
            raise SettingError(
                f"The evolution has {self.num_mutations} mutations and {self.num_crossovers} crossovers "
                f"an iteration, but needs at least one child."
            )
        if not 0 < self.mutation_probability <= 1:
            raise SettingError(
                f"The mutation probability is {self.mutation_probability}, but must be above 0 and at most 1."
            )


class Evolution(Strategy):
    """Algorithm 1, for as many iterations as the budget allows."""

    Settings: ClassVar[type] = EvolutionSettings
    settings: EvolutionSettings
    first_schemes: ClassVar[tuple[str, ...]] = FIRST_SCHEMES

    def __init__(self, task: Task, settings: EvolutionSettings) -> None:
        super().__init__(task, settings)
        self._first = first_candidates(task.space, self.first_schemes)
        self._ranked: list[tuple[float, int, Candidate]] = []  # value, order, candidate
        self._waiting = deque(self._first_population())

    def ask(self) -> Query | None:
        if not self._waiting:
            self._waiting.extend(self._children())
        return Query(candidate=self._waiting.popleft()) if self._waiting else None

    def ask_ahead(self) -> Iterable[Query]:
        """The rest of the generation."""
        return (Query(candidate=candidate) for candidate in self._waiting)

    def tell(self, trial: Trial) -> None:
        if trial.value is not None:
            self._ranked.append((trial.value, trial.index, trial.candidate))

    def _first_population(self) -> list[Candidate]:
        size = self.settings.population_size
        population = list(dict.fromkeys(self._first))[:size]
        self._seen.update(population)
        return population + self._draw_fresh(
            size - len(population), lambda: self._mutate(self._pick(self._first))
        )

    def _children(self) -> list[Candidate]:
        """One iteration: mutations, then crossovers, of the best so far."""
        self._ranked = sorted(self._ranked, key=lambda entry: entry[:2])[: self.settings.num_parents]
        # If nothing succeeded yet, the only parents are the first candidates.
        parents = [candidate for *_, candidate in self._ranked] or self._first
        children = self._draw_fresh(self.settings.num_mutations, lambda: self._mutate(self._pick(parents)))
        if len(parents) > 1:
            children += self._draw_fresh(self.settings.num_crossovers, lambda: self._cross(parents))
        return children

    def _draw_fresh(self, count: int, draw: Callable[[], Candidate]) -> list[Candidate]:
        drawn = (self._fresh(draw) for _ in range(count))
        return [candidate for candidate in drawn if candidate is not None]

    def _pick(self, candidates: Sequence[Candidate]) -> Candidate:
        return candidates[int(self.generator.integers(len(candidates)))]

    def _mutate(self, parent: Candidate) -> Candidate:
        levels = self.space.levels(parent)
        for pair in range(len(levels)):
            if self.generator.random() < self.settings.mutation_probability:
                levels[pair] = self.generator.integers(*self._range(levels, pair))
        return self.space.candidate(
            levels,
            self._redraw(parent.num_start_tokens, self.space.start_tokens),
            self._redraw(parent.attention_factor, self.space.attention_factors),
        )

    def _range(self, levels: Levels, pair: int) -> tuple[int, int]:
        """The levels from which a pair (or knot) may be redrawn, the end excluded: between those of the pairs
        before and after it, in a monotone space."""
        ordered, last = self.space.monotone, len(levels) - 1
        lowest = int(levels[pair - 1]) if ordered and pair > 0 else 0
        highest = int(levels[pair + 1]) if ordered and pair < last else self.space.highest_level
        return lowest, highest + 1

    def _redraw(self, current: Number, choices: Sequence[Number]) -> Number:
        """The current choice, or with probability p any of the list; a list of one draws nothing."""
        if len(choices) > 1 and self.generator.random() < self.settings.mutation_probability:
            return choices[int(self.generator.integers(len(choices)))]
        return current

    def _cross(self, parents: Sequence[Candidate]) -> Candidate:
        one, other = (parents[i] for i in self.generator.choice(len(parents), size=2, replace=False))
        from_one = self.generator.random(self.space.num_knots + 2) < 0.5
        levels = np.where(from_one[:-2], self.space.levels(one), self.space.levels(other))
        return self.space.candidate(
            self.space.legal(levels),
            one.num_start_tokens if from_one[-2] else other.num_start_tokens,
            one.attention_factor if from_one[-1] else other.attention_factor,
        )
