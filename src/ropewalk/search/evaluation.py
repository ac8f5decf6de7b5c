"""Evaluator: computes the value of a query, document by document."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ropewalk.search.meter import DocumentMeasure
from ropewalk.search.objective import Objective, TrialFailure, out_of_memory
from ropewalk.search.trial import Parts, Query, Trial


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The outcome of a query; attributes as in `Trial`."""

    value: float | None = None
    failure: str | None = None
    cost: float
    documents: tuple[int, ...] | None
    parts: Parts = field(default_factory=dict)
    gradient: tuple[float, ...] | None = None


class Evaluator:
    """Reads the documents of a query, until all are read or one fails."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective

    def could_have_made(self, trial: Trial) -> bool:
        """Whether a recorded trial has the values that an evaluation of its documents has."""
        objective, read = self.objective, trial.documents
        if read is not None and not set(read) <= set(range(objective.num_documents)):
            return False
        if trial.gradient is not None and len(trial.gradient) != objective.space.num_knots + 1:
            return False
        if not trial.parts:  # it failed, or is of an early journal: those had one term and no parts
            return not trial.is_complete or len(objective.terms) == 1
        num_read = objective.num_documents if read is None else len(read)
        names = {term.name for term in objective.terms}
        return set(trial.parts) == names and all(len(nats) == num_read for nats in trial.parts.values())

    def evaluate(self, query: Query) -> Evaluation:
        """Evaluates a query. Running out of memory is an outcome; any other error is raised."""
        try:
            return self._evaluate(query)
        except (RuntimeError, MemoryError) as error:
            failure = out_of_memory(error)
            if failure is None:
                raise
            return self._failed(query, failure)

    def _evaluate(self, query: Query) -> Evaluation:
        measures: list[DocumentMeasure] = []
        documents = self._documents(query)
        for measure in self.objective.measure(
            query.candidate, documents, query.draw, gradient=query.gradient
        ):
            measures.append(measure)
            nats = sum(found.nll_sum_nats for found in measure.sums.values())
            if not math.isfinite(nats):
                return self._failed(query, TrialFailure(f"the value is {nats}"), len(measures))
        if not query.gradient:
            return self._finished(query, measures, gradient=None)
        gradient = tuple(map(float, self.objective.gradient(measures)))
        if not all(map(math.isfinite, gradient)):
            return self._failed(query, TrialFailure("the gradient is not finite"))
        return self._finished(query, measures, gradient=gradient)

    def _finished(
        self, query: Query, measures: Sequence[DocumentMeasure], gradient: tuple[float, ...] | None
    ) -> Evaluation:
        sums = [measure.sums for measure in measures]
        value = self.objective.value(sums)
        if not math.isfinite(value):
            return self._failed(query, TrialFailure(f"the value is {value}"))
        cost = self.objective.cost_of(query.documents, gradient=query.gradient)
        parts: Parts = {
            term.name: tuple(found[term.name].nll_sum_nats for found in sums) for term in self.objective.terms
        }
        return Evaluation(value=value, cost=cost, documents=query.documents, parts=parts, gradient=gradient)

    def _failed(self, query: Query, failure: TrialFailure, num_read: int | None = None) -> Evaluation:
        """A failure costs the documents that were read; all of them where their number is unknown."""
        read = self._documents(query)[:num_read]
        cost = self.objective.cost_of(read, gradient=query.gradient)
        return Evaluation(failure=failure.reason, cost=cost, documents=query.documents)

    def _documents(self, query: Query) -> tuple[int, ...]:
        return tuple(range(self.objective.num_documents)) if query.documents is None else query.documents
