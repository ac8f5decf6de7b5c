"""What a strategy is: it is asked for candidates and told trials, and sees nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from ropewalk.search.space import Candidate, SearchSpace
from ropewalk.search.trial import Trial

NUM_RETRIES = 100


class Strategy(ABC):
    """Ask, evaluate elsewhere, tell; every draw comes from one generator, made from the seed.

    So a strategy that is built again and told the same trials asks for the same candidates, which is how
    a run is resumed. No candidate is asked for twice.

    Attributes:
        settings: a dataclass of the strategy's own: what a repetition needs besides space and seed.
    """

    def __init__(self, space: SearchSpace, seed: int, settings: Any) -> None:
        self.space = space
        self.settings = settings
        self.generator = np.random.Generator(np.random.PCG64(seed))
        self._seen: set[Candidate] = set()

    @abstractmethod
    def ask(self) -> Candidate | None:
        """The next candidate to evaluate; None if nothing new could be found."""

    @abstractmethod
    def tell(self, trial: Trial) -> None:
        """Take note of the trial of a candidate that was asked for."""

    def generator_state(self) -> dict[str, Any]:
        """The generator's state as JSON values; its 128-bit numbers are text."""
        state = self.generator.bit_generator.state
        return {
            "bit_generator": state["bit_generator"],
            "state": str(state["state"]["state"]),
            "inc": str(state["state"]["inc"]),
            "has_uint32": state["has_uint32"],
            "uinteger": state["uinteger"],
        }

    def _fresh(self, draw: Callable[[], Candidate]) -> Candidate | None:
        """The first draw that was never drawn before, or None after `NUM_RETRIES` draws."""
        for _ in range(NUM_RETRIES):
            candidate = draw()
            if candidate not in self._seen:
                self._seen.add(candidate)
                return candidate
        return None
