"""DocumentMeter: measures one document of an objective under one set of factors.

A document and a set of factors are the unit of work of a search. Their measurements are independent, so that
they can be made anywhere, and are added up in the order of the documents.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ropewalk.evaluate.gradient import ReadingGradient, reading_gradient
from ropewalk.evaluate.kept_keys import KeptKeys, keep, kept_gradient, score_kept
from ropewalk.evaluate.nll import NllSum, score_reading
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.text.readings import Reading, judged

# The readings of a document: (index, draw) to the forward passes that measure it.
ReadingsOf = Callable[[int, int], Sequence[Reading]]
NOTHING = NllSum(nll_sum_nats=0.0, num_tokens=0)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What the keys of a document were kept under: the factors, and the draw whose tokens were read."""

    factors: RescaleFactors
    draw: int


@dataclass(frozen=True, kw_only=True)
class DocumentTask:
    """What to measure.

    Attributes:
        factors: those that are installed.
        document: its index.
        draw: which facts are hidden in it, where an objective draws them.
        weights: of a nat of each term in the gradient; None if no gradient is needed.
        kept: judge the document from keys that were kept under these; None reads it in full.
    """

    factors: RescaleFactors
    document: int
    draw: int = 0
    weights: Mapping[str, float] | None = None
    kept: Kept | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class DocumentMeasure:
    """A measured document.

    Attributes:
        sums: the nats of each term.
        by_log_factor: the derivatives of the weighted sum of nats with respect to ln lambda, shape
            (num_pairs,); None without a gradient.
        by_log_attention: with respect to ln of the attention factor.
    """

    sums: Mapping[str, NllSum]
    by_log_factor: NDArray[np.float64] | None = None
    by_log_attention: float = 0.0


class DocumentMeter:
    """Measures documents with a model, which it leaves unchanged.

    Keys are kept per document, for the last factors that a task named, so that any meter can answer any task:
    one that has no such keys makes them first.
    """

    def __init__(self, model: Model, terms: Sequence[str], readings_of: ReadingsOf) -> None:
        self._model = model
        self._terms = tuple(terms)
        self._readings_of = readings_of
        self._kept: dict[int, tuple[Kept, list[KeptKeys]]] = {}

    def measure(self, task: DocumentTask) -> DocumentMeasure:
        """Measures one document, all its readings in turn."""
        sums = dict.fromkeys(self._terms, NOTHING)
        by_log_factor, by_log_attention = None, 0.0
        readings = self._readings_of(task.document, task.draw)
        keys: Sequence[KeptKeys | None] = [None] * len(readings)
        if task.kept is not None:
            readings = [judged(reading, task.draw) for reading in readings]
            keys = self._keys(task.document, task.kept)
        for reading, kept in zip(readings, keys, strict=True):
            if task.weights is None:
                found = self._score(reading, task.factors, kept)
            else:
                gradient = self._differentiate(reading, task.factors, task.weights, kept)
                found = gradient.sums
                row = gradient.by_log_factor
                by_log_factor = row if by_log_factor is None else by_log_factor + row
                by_log_attention += gradient.by_log_attention
            for term, nats in found.items():
                sums[term] += nats
        return DocumentMeasure(sums=sums, by_log_factor=by_log_factor, by_log_attention=by_log_attention)

    def _score(self, reading: Reading, factors: RescaleFactors, kept: KeptKeys | None) -> dict[str, NllSum]:
        if kept is not None:
            return score_kept(self._model, kept, reading, factors)
        with self._model.using(factors):
            return score_reading(self._model.model, reading)

    def _differentiate(
        self, reading: Reading, factors: RescaleFactors, weights: Mapping[str, float], kept: KeptKeys | None
    ) -> ReadingGradient:
        if kept is not None:
            return kept_gradient(self._model, kept, reading, factors, weights)
        return reading_gradient(self._model, reading, factors, weights)

    def _keys(self, document: int, kept: Kept) -> list[KeptKeys]:
        """The keys of a document's readings under these factors, kept now if they are not there."""
        if document not in self._kept or self._kept[document][0] != kept:
            self._kept.pop(document, None)  # before the new ones take memory
            readings = self._readings_of(document, kept.draw)
            keys = [keep(self._model, reading.ids, kept.factors) for reading in readings]
            self._kept[document] = (kept, keys)
        return self._kept[document][1]
