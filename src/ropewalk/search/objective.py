"""The value of a candidate, and its gradient.

An objective has weighted terms, each with windows to be scored for every search document:

    ln value = sum over terms of  weight * (nats of the documents that were read) / (their scored tokens)

so the value of one term of weight 1 is a perplexity, documents can be read one at a time and added up later,
and two candidates are compared on the same tokens. Terms: `search.objectives`.
"""

import gc
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import SettingError
from ropewalk.evaluate.gradient import gradient_cost, nll_gradient, will_checkpoint
from ropewalk.evaluate.nll import NllSum, score_windows
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.search.space import Candidate, SearchSpace
from ropewalk.search.trial import Parts
from ropewalk.text.windows import TokenWindow

# In the messages of torch's backends, some of which raise a plain RuntimeError.
OUT_OF_MEMORY = ("out of memory", "can't allocate", "not enough memory", "alloc_failed")
LONGEST_REASON = 200

GradientArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Term:
    """One measurement of an objective.

    Attributes:
        weight: the factor of its mean nats in the sum.
        windows: for each search document, the windows to read and score.
    """

    name: str
    weight: float
    windows: tuple[tuple[TokenWindow, ...], ...]

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise SettingError(f"The weight of {self.name} is {self.weight}, but must be above 0.")
        assert self.windows, "a term has windows for every document"
        assert all(self.windows), "a term scores something of every document"

    def num_scored(self, documents: Sequence[int]) -> int:
        """Scored tokens of some documents."""
        return sum(window.num_scored for index in documents for window in self.windows[index])

    def num_read(self, document: int) -> int:
        """Tokens that are read to score one document."""
        return sum(len(window.ids) for window in self.windows[document])


class Objective:
    """The function that a search minimises: weighted terms on documents, measured with the model.

    Every call leaves the model unchanged.

    Attributes:
        costs: the cost of each document's value, in forward passes over the whole document set.
        gradient_cost: the cost of a gradient, in values of the same documents.
    """

    def __init__(
        self,
        loaded: Model,
        terms: Sequence[Term],
        space: SearchSpace,
        base_factors: RescaleFactors | None = None,
    ) -> None:
        """`base_factors`: candidates are multiplied by them; for searches with the base `as-is`."""
        assert len({len(term.windows) for term in terms}) == 1, (
            "every term has windows for the same documents"
        )
        self.terms = tuple(terms)
        self.space = space
        self._loaded = loaded
        self._base_factors = base_factors
        num_documents = len(terms[0].windows)
        one_pass = num_documents * space.target_length
        self.costs = tuple(sum(term.num_read(d) for term in terms) / one_pass for d in range(num_documents))
        self.gradient_cost = gradient_cost(will_checkpoint(loaded.model, space.target_length))

    @property
    def name(self) -> str:
        shape = f"{self.num_documents} documents of {self.space.target_length} tokens"
        weights = [f"{term.weight:g} x {term.name}" if term.weight != 1 else term.name for term in self.terms]
        return f"{' + '.join(weights)} of {shape}, each read in one pass"

    @property
    def num_documents(self) -> int:
        return len(self.costs)

    @property
    def cost(self) -> float:
        """The cost of a value of all documents."""
        return sum(self.costs)

    def cost_of(self, documents: Sequence[int] | None, *, gradient: bool) -> float:
        """The cost of some documents, None for all."""
        read = self.cost if documents is None else sum(self.costs[index] for index in documents)
        return read * (self.gradient_cost if gradient else 1.0)

    def factors(self, candidate: Candidate) -> RescaleFactors:
        """The factors that are installed for a candidate."""
        factors = self.space.to_factors(candidate)
        return factors if self._base_factors is None else factors.compose(self._base_factors)

    def measure(self, candidate: Candidate, document: int) -> tuple[float, ...]:
        """Nats of one document, one number per term."""
        with self._loaded.using(self.factors(candidate)):
            return tuple(
                score_windows(self._loaded.model, term.windows[document]).nll_sum_nats for term in self.terms
            )

    def value_of(self, factors: RescaleFactors) -> float:
        """The value of factors that need not be a candidate of the space."""
        with self._loaded.using(factors):
            parts = {
                term.name: tuple(score_windows(self._loaded.model, w).nll_sum_nats for w in term.windows)
                for term in self.terms
            }
        return self.value(parts)

    def differentiate(self, candidate: Candidate, document: int) -> tuple[tuple[float, ...], GradientArray]:
        """Nats of one document, one number per term, and their gradients: (num_terms, num_knots + 1)."""
        factors = self.factors(candidate)
        nats, rows = [], []
        for term in self.terms:
            total, row = NllSum(nll_sum_nats=0.0, num_tokens=0), np.zeros(self.space.num_knots + 1)
            for window in term.windows[document]:
                found = nll_gradient(self._loaded, window, factors)
                total += found.nll
                row += self.space.pull_back(found.by_log_factor, found.by_log_attention)
            nats.append(total.nll_sum_nats)
            rows.append(row)
        return tuple(nats), np.stack(rows)

    def value(self, parts: Parts, documents: Sequence[int] | None = None) -> float:
        """The value of some documents (None for all), from the nats of each."""
        read = range(self.num_documents) if documents is None else documents
        log_value = sum(
            term.weight * math.fsum(parts[term.name]) / term.num_scored(read) for term in self.terms
        )
        try:
            return math.exp(log_value)
        except OverflowError:
            return math.inf

    def gradient(self, of_documents: Sequence[GradientArray], documents: Sequence[int]) -> GradientArray:
        """Of ln value, from each document's `differentiate`; shape (num_knots + 1,)."""
        weights = np.array([term.weight / term.num_scored(documents) for term in self.terms])
        total: GradientArray = weights @ np.sum(of_documents, axis=0)
        return total


@dataclass(frozen=True)
class TrialFailure:
    """Why a candidate has no value, in one line."""

    reason: str


def out_of_memory(error: Exception) -> TrialFailure | None:
    """The reason in one line if memory ran out, None if this is another error."""
    text = " ".join(str(error).split())
    known = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if not known and not any(sign in text.lower() for sign in OUT_OF_MEMORY):
        return None
    gc.collect()  # the memory of the failed evaluation must be free for the next one
    return TrialFailure(f"out of memory: {text}"[:LONGEST_REASON] if text else "out of memory")
