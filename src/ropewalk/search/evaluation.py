"""Evaluator: computes the value of a query, document by document."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from ropewalk.search.meter import DocumentMeasure, DocumentTask, Kept
from ropewalk.search.objective import Objective, TrialFailure, out_of_memory
from ropewalk.search.renewal import Renewal, TrustRegion
from ropewalk.search.space import Candidate
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
    renewal: Renewal | None = None


class Evaluator:
    """Measures the documents of a query, until all are measured or one fails.

    Args:
        region: documents are judged from kept keys, which are renewed as it says; None reads each document in
            full for each query.
    """

    def __init__(self, objective: Objective, region: TrustRegion | None = None) -> None:
        self.objective = objective
        self.region = region

    def could_have_made(self, trial: Trial) -> bool:
        """Whether a recorded trial has the values that an evaluation of its documents has."""
        objective, read = self.objective, trial.documents
        if read is not None and not set(read) <= set(range(objective.num_documents)):
            return False
        if trial.gradient is not None and len(trial.gradient) != objective.space.num_coordinates:
            return False
        if not trial.parts:  # it failed, or is of an early journal: those had one term and no parts
            return not trial.is_complete or len(objective.terms) == 1
        num_read = objective.num_documents if read is None else len(read)
        names = {term.name for term in objective.terms}
        return set(trial.parts) == names and all(len(nats) == num_read for nats in trial.parts.values())

    def evaluate(
        self, query: Query, best: Candidate | None = None, ahead: Iterable[Query] = ()
    ) -> Evaluation:
        """Evaluates a query. Running out of memory is an outcome; any other error is raised.

        Args:
            best: the best candidate so far.
            ahead: later queries, with which workers that have nothing to do may begin.
        """
        try:
            renewal = self._renew(query, best)
            return replace(self._evaluate(query, ahead), renewal=renewal)
        except (RuntimeError, MemoryError) as error:
            failure = out_of_memory(error)
            if failure is None:
                raise
            return self._failed(query, failure)

    def replay(self, query: Query, renewal: Renewal | None, best: Candidate | None) -> None:
        """Takes the renewal that a recorded trial of this query made; `best` as in `evaluate`."""
        if self.region is not None and renewal is not None:
            self._record(renewal, _centre(query, best), query.draw)

    def _renew(self, query: Query, best: Candidate | None) -> Renewal | None:
        """Renews the keys of the query's documents where they are due."""
        if self.region is None:
            return None
        objective, centre = self.objective, _centre(query, best)
        documents = self.region.due(self._documents(query), centre, objective.renewal_costs)
        if best is None and not query.gradient:  # initial candidates: none is known to be better than another
            documents = tuple(document for document in documents if self.region.kept(document) is None)
        if not documents:
            return None
        known = [document for document in documents if self.region.kept(document) is not None]
        judged = objective.measure(centre, known, query.draw, kept=self.region.kept)
        before = objective.value([measure.sums for measure in judged]) if known else None
        cost = objective.cost_of(documents, kept=False) + objective.cost_of(known, kept=True)
        kept = Kept(factors=objective.factors(centre), draw=query.draw)
        error = None
        if before is not None:
            read = objective.measure(centre, known, query.draw, kept=lambda _: kept)
            error = abs(math.log(before / objective.value([measure.sums for measure in read])))
            error = error if math.isfinite(error) else None  # the centre has no value
        renewal = Renewal(documents=documents, cost=cost, error=error)
        self._record(renewal, centre, query.draw)
        return renewal

    def _record(self, renewal: Renewal, centre: Candidate, draw: int) -> None:
        assert self.region is not None
        self.region.record(renewal, centre, Kept(factors=self.objective.factors(centre), draw=draw))

    def _evaluate(self, query: Query, ahead: Iterable[Query]) -> Evaluation:
        measures: list[DocumentMeasure] = []
        for measure in self.objective.measure(
            query.candidate, self._documents(query), query.draw, gradient=query.gradient, kept=self._kept,
            keep=query.keep, ahead=self._tasks(ahead),
        ):  # fmt: skip
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

    def _tasks(self, queries: Iterable[Query]) -> Iterator[DocumentTask]:
        """The documents of later queries, if no keys are renewed before them."""
        for query in queries:
            yield from self.objective.tasks_of(
                query.candidate, self._documents(query), query.draw, gradient=query.gradient, kept=self._kept,
                keep=query.keep,
            )  # fmt: skip

    @property
    def _kept(self) -> Callable[[int], Kept | None] | None:
        return None if self.region is None else self.region.kept

    def _finished(
        self, query: Query, measures: Sequence[DocumentMeasure], gradient: tuple[float, ...] | None
    ) -> Evaluation:
        sums = [measure.sums for measure in measures]
        value = self.objective.value(sums)
        if not math.isfinite(value):
            return self._failed(query, TrialFailure(f"the value is {value}"))
        cost = self._cost(query.documents, query)
        parts: Parts = {
            term.name: tuple(found[term.name].nll_sum_nats for found in sums) for term in self.objective.terms
        }
        return Evaluation(value=value, cost=cost, documents=query.documents, parts=parts, gradient=gradient)

    def _failed(self, query: Query, failure: TrialFailure, num_read: int | None = None) -> Evaluation:
        """A failure costs the documents that were read; all of them where their number is unknown."""
        read = self._documents(query)[:num_read]
        cost = self._cost(read, query)
        return Evaluation(failure=failure.reason, cost=cost, documents=query.documents)

    def _cost(self, documents: Sequence[int] | None, query: Query) -> float:
        return self.objective.cost_of(documents, gradient=query.gradient, kept=self.region is not None)

    def _documents(self, query: Query) -> tuple[int, ...]:
        return tuple(range(self.objective.num_documents)) if query.documents is None else query.documents


def _centre(query: Query, best: Candidate | None) -> Candidate:
    """Where keys are kept: the point of a descent, or the best candidate so far."""
    return query.candidate if query.gradient or best is None else best
