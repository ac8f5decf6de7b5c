"""The value of a candidate, and its gradient.

An objective has weighted terms. A document is read in one or more forward passes (`text.readings`), in which
each term scores some tokens:

    ln value = sum over terms of  weight * (nats of the documents that were read) / (their scored tokens)

so the value of one term of weight 1 is a perplexity, documents can be measured one at a time and added up
later, and two candidates are compared on the same tokens. Terms: `search.objectives`.
"""

import gc
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import SettingError
from ropewalk.evaluate.gradient import gradient_cost, will_checkpoint
from ropewalk.evaluate.nll import NllSum
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.search.meter import NOTHING, DocumentMeasure, DocumentMeter, DocumentTask, Kept, ReadingsOf
from ropewalk.search.space import Candidate, SearchSpace
from ropewalk.text.readings import Reading, choose_targets

# In the messages of torch's backends, some of which raise a plain RuntimeError.
OUT_OF_MEMORY = ("out of memory", "can't allocate", "not enough memory", "alloc_failed")
LONGEST_REASON = 200

GradientArray = NDArray[np.float64]


class MeasureAll(Protocol):
    """Measures documents, in this process or in others."""

    def __call__(
        self, tasks: Iterable[DocumentTask], ahead: Iterable[DocumentTask] = (), /
    ) -> Iterator[DocumentMeasure]:
        """Yields the measures of `tasks` in their order, and may begin with `ahead`, which comes next."""


@dataclass(frozen=True, kw_only=True)
class Term:
    """One measurement of an objective; `weight` is the factor of its mean nats in the sum."""

    name: str
    weight: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise SettingError(f"The weight of {self.name} is {self.weight}, but must be above 0.")


@dataclass(frozen=True, kw_only=True, eq=False)
class TermReadings:
    """The terms of an objective, and what is read for them.

    Attributes:
        num_documents: of the search.
        readings_of: from the index of a document and the number of a draw to its readings. Draws differ in
            what is drawn (facts); every search value uses draw 0, every step of a descent its own.
    """

    terms: tuple[Term, ...]
    num_documents: int
    readings_of: ReadingsOf

    def num_scored(self, documents: Sequence[int], draw: int = 0) -> dict[str, int]:
        """The scored tokens of each term in some documents."""
        readings = [reading for index in documents for reading in self.readings_of(index, draw)]
        return {term.name: sum(r.num_scored(term.name) for r in readings) for term in self.terms}

    def meter(self, model: Model) -> DocumentMeter:
        """What measures these readings with a model."""
        return DocumentMeter(model, [term.name for term in self.terms], self.readings_of)

    def num_read(self, document: int) -> int:
        """The tokens that are read to measure one document."""
        return sum(len(reading.ids) for reading in self.readings_of(document, 0))

    def judged(self) -> "TermReadings":
        """The same with those targets that are scored from kept keys."""
        return replace(
            self,
            readings_of=lambda document, draw: [
                choose_targets(one, draw=draw) for one in self.readings_of(document, draw)
            ],
        )

    def num_queries(self, document: int) -> int:
        """The tokens that run through the model to judge one document from keys of another draw."""
        readings = zip(self.readings_of(document, 0), self.readings_of(document, 1), strict=True)
        return sum(_num_queries(one, other) for one, other in readings)


class Objective:
    """The function that a search minimises: weighted terms on documents, measured with the model.

    Every call leaves the model unchanged.

    Attributes:
        from_kept: whether candidates are judged from kept keys where nothing else is said.
        costs: the cost of each document's value in that way, in forward passes over the whole document set.
        full_costs, kept_costs: the cost when it is read in full, and when it is judged from kept keys (at
            most).
        gradient_cost: the cost of a gradient, in values of the same documents.
    """

    def __init__(
        self,
        model: Model,
        readings: TermReadings,
        space: SearchSpace,
        base_factors: RescaleFactors | None = None,
        *,
        from_kept: bool = False,
        measure_all: MeasureAll | None = None,
    ) -> None:
        """Creates the objective.

        Args:
            base_factors: candidates are multiplied by them; for searches with the base `as-is`.
            measure_all: measures documents; None measures one after another with `model`.
        """
        self.readings = readings
        self.terms = readings.terms
        self.space = space
        self._base_factors = base_factors
        self._measure_all = measure_all or _one_by_one(readings.meter(model))
        documents, one_pass = range(readings.num_documents), readings.num_documents * space.target_length
        self._judged = readings.judged()
        self.from_kept = from_kept
        self.full_costs = tuple(readings.num_read(d) / one_pass for d in documents)
        self.costs = self.kept_costs if from_kept else self.full_costs
        self.gradient_cost = gradient_cost(will_checkpoint(model.model, space.target_length))

    @cached_property
    def kept_costs(self) -> tuple[float, ...]:
        """As `full_costs`, from kept keys; it needs a second draw, which exact searches never make."""
        one_pass = self.readings.num_documents * self.space.target_length
        return tuple(self.readings.num_queries(d) / one_pass for d in range(self.readings.num_documents))

    @property
    def renewal_costs(self) -> tuple[float, ...]:
        """Of renewing the kept keys of each document: it is judged with the old ones, and read in full."""
        return tuple(sum(both) for both in zip(self.full_costs, self.kept_costs, strict=True))

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

    def cost_of(
        self, documents: Sequence[int] | None, *, gradient: bool = False, kept: bool | None = None
    ) -> float:
        """The cost of some documents, None for all.

        Args:
            kept: whether they are judged from kept keys; None as `from_kept`.
        """
        is_kept = self.from_kept if kept is None else kept
        costs = self.kept_costs if is_kept else self.full_costs
        read = sum(costs) if documents is None else sum(costs[index] for index in documents)
        return read * (self.gradient_cost if gradient else 1.0)

    def factors(self, candidate: Candidate) -> RescaleFactors:
        """The factors that are installed for a candidate."""
        factors = self.space.to_factors(candidate)
        return factors if self._base_factors is None else factors.compose(self._base_factors)

    def measure(
        self,
        candidate: Candidate,
        documents: Sequence[int],
        draw: int = 0,
        *,
        gradient: bool = False,
        kept: Callable[[int], Kept | None] | None = None,
        keep: bool = False,
        ahead: Iterable[DocumentTask] = (),
    ) -> Iterator[DocumentMeasure]:
        """Yields the measure of each document, in their order.

        Args:
            gradient: whether to measure derivatives, which add up to those of ln value.
            kept: for each document, what its keys were kept under; None reads all documents in full.
            keep: whether to keep their keys then.
            ahead: tasks of later calls, with which workers that have nothing to do may begin.
        """
        tasks = self.tasks_of(candidate, documents, draw, gradient=gradient, kept=kept, keep=keep)
        return self._measure_all(tasks, ahead)

    def tasks_of(
        self,
        candidate: Candidate,
        documents: Sequence[int],
        draw: int = 0,
        *,
        gradient: bool = False,
        kept: Callable[[int], Kept | None] | None = None,
        keep: bool = False,
    ) -> Iterator[DocumentTask]:
        """The tasks of `measure`, whose arguments it has."""
        readings = self.readings if kept is None else self._judged
        weights = self._weights(readings, documents, draw) if gradient else None
        factors = self.factors(candidate)
        return (
            DocumentTask(
                factors=factors,
                document=document,
                draw=draw,
                weights=weights,
                kept=None if kept is None else kept(document),
                keep=keep,
            )
            for document in documents
        )

    def value_of(self, factors: RescaleFactors) -> float:
        """The value of factors that need not be a candidate of the space."""
        tasks = [DocumentTask(factors=factors, document=document) for document in range(self.num_documents)]
        return self.value([measure.sums for measure in self._measure_all(tasks)])

    def value(self, documents: Sequence[Mapping[str, NllSum]]) -> float:
        """The value of some documents, from the sums of each."""
        try:
            return math.exp(math.fsum(term.weight * self.mean_nats(documents, term) for term in self.terms))
        except OverflowError:
            return math.inf

    def mean_nats(self, documents: Sequence[Mapping[str, NllSum]], term: Term) -> float:
        """The nats per token of one term."""
        num_tokens = sum(sums.get(term.name, NOTHING).num_tokens for sums in documents)
        nats = math.fsum(sums[term.name].nll_sum_nats for sums in documents if term.name in sums)
        return nats / num_tokens

    def gradient(self, measures: Sequence[DocumentMeasure]) -> GradientArray:
        """Of ln value in the space's coordinates, shape (num_coordinates,), from measured documents."""
        total = np.zeros(self.space.num_coordinates)
        for measure in measures:
            assert measure.by_log_factor is not None, "measured with a gradient"
            total += self.space.pull_back(
                measure.by_log_factor, measure.by_log_attention, measure.by_log_near_attention
            )
        return total

    def _weights(self, readings: TermReadings, documents: Sequence[int], draw: int) -> dict[str, float]:
        """Of a nat of each term in ln value."""
        num_scored = readings.num_scored(documents, draw)
        return {term.name: term.weight / num_scored[term.name] for term in self.terms}


def _num_queries(kept: Reading, reading: Reading) -> int:
    is_query = kept.ids != reading.ids
    is_query[choose_targets(reading, draw=1).targets - 1] = True
    is_query[reading.fresh] = True
    return int(is_query.sum())


def _one_by_one(meter: DocumentMeter) -> MeasureAll:
    return lambda tasks, ahead=(): map(meter.measure, tasks)


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
