"""A query to what is known of it: document by document, with the race between them."""

import math
from dataclasses import dataclass, field

from ropewalk.search.objective import Gradient, Objective, TrialFailure, out_of_memory
from ropewalk.search.racing import Race
from ropewalk.search.trial import Kind, Parts, Query, Trial


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A query's outcome; attributes as in `Trial`."""

    value: float | None = None
    failure: str | None = None
    cost: float
    documents: tuple[int, ...] | None
    parts: Parts = field(default_factory=dict)
    estimate: float | None = None
    gradient: tuple[float, ...] | None = None


class Measurer:
    """Reads the documents that a query names, until all are read, one fails, or the race is lost."""

    def __init__(self, objective: Objective, race: Race | None) -> None:
        self.objective = objective
        self.race = race

    def take_note(self, trial: Trial) -> None:
        """Tell the race about a trial, measured now or read from a journal."""
        if self.race is not None and trial.is_complete:
            self.race.finished(self.objective.shares(trial.parts))

    def could_be(self, trial: Trial) -> bool:
        """Whether a trial from a journal has what a measurement of its documents gives."""
        objective, read = self.objective, trial.documents
        if read is not None and not set(read) <= set(range(objective.num_documents)):
            return False
        if trial.gradient is not None and len(trial.gradient) != objective.space.num_knots + 1:
            return False
        if not trial.parts:  # it failed, or is from a time when nothing was written of them
            return self.race is None or not trial.is_complete
        num_read = objective.num_documents if read is None else len(read)
        names = {term.name for term in objective.terms}
        return set(trial.parts) == names and all(len(nats) == num_read for nats in trial.parts.values())

    def measure(self, query: Query, kind: Kind) -> Measured:
        """One outcome; running out of memory is one, any other error passes through."""
        try:
            if query.gradient:
                return self._differentiate(query)
            racing = self.race is not None and kind == "trial" and query.documents is None
            return self._evaluate(query, racing)
        except (RuntimeError, MemoryError) as error:
            failure = out_of_memory(error)
            if failure is None:
                raise
            return self._failed(query, failure)

    def _evaluate(self, query: Query, racing: bool) -> Measured:
        parts: dict[str, list[float]] = {term.name: [] for term in self.objective.terms}
        for position, document in enumerate(self._documents(query), start=1):
            nats = self.objective.measure(query.candidate, document)
            if not all(map(math.isfinite, nats)):
                return self._failed(query, TrialFailure(f"the value is {sum(nats)}"), position)
            for term, found in zip(self.objective.terms, nats, strict=True):
                parts[term.name].append(found)
            if racing and (dropped := self._dropped(query, _whole(parts), position)) is not None:
                return dropped
        return self._finished(query, _whole(parts), gradient=None)

    def _differentiate(self, query: Query) -> Measured:
        parts: dict[str, list[float]] = {term.name: [] for term in self.objective.terms}
        gradients: list[Gradient] = []
        documents = self._documents(query)
        for document in documents:
            nats, gradient = self.objective.differentiate(query.candidate, document)
            for term, found in zip(self.objective.terms, nats, strict=True):
                parts[term.name].append(found)
            gradients.append(gradient)
        total = tuple(map(float, self.objective.gradient(gradients, documents)))
        if not all(map(math.isfinite, total)):
            return self._failed(query, TrialFailure("the gradient is not finite"))
        return self._finished(query, _whole(parts), gradient=total)

    def _finished(self, query: Query, parts: Parts, gradient: tuple[float, ...] | None) -> Measured:
        value = self.objective.value(parts, query.documents)
        if not math.isfinite(value):
            return self._failed(query, TrialFailure(f"the value is {value}"))
        cost = self.objective.cost_of(query.documents, gradient=query.gradient)
        return Measured(value=value, cost=cost, documents=query.documents, parts=parts, gradient=gradient)

    def _failed(self, query: Query, failure: TrialFailure, num_read: int | None = None) -> Measured:
        """What fails is charged for what was read of it; where that is unknown, for everything."""
        read = self._documents(query)[:num_read]
        cost = self.objective.cost_of(read, gradient=query.gradient)
        return Measured(failure=failure.reason, cost=cost, documents=query.documents)

    def _dropped(self, query: Query, parts: Parts, num_read: int) -> Measured | None:
        assert self.race is not None
        verdict = self.race.verdict(self.objective.shares(parts))
        if not verdict.drop:
            return None
        read = self._documents(query)[:num_read]
        best = self.race.reference_nats
        return Measured(
            failure=f"dropped after {num_read} of {self.objective.num_documents} documents: at least "
            f"{verdict.lower_bound_nats:.4f} nats a token behind the best",
            cost=self.objective.cost_of(read, gradient=False),
            documents=read,
            parts=parts,
            estimate=math.exp(best + verdict.difference_nats),
        )

    def _documents(self, query: Query) -> tuple[int, ...]:
        return tuple(range(self.objective.num_documents)) if query.documents is None else query.documents


def _whole(parts: dict[str, list[float]]) -> Parts:
    return {name: tuple(nats) for name, nats in parts.items()}
