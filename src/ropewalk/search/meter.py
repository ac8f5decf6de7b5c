"""DocumentMeter: measures one document of an objective under one set of factors.

A document and a set of factors are the unit of work of a search. Their measurements are independent, so that
they can be made anywhere, and are added up in the order of the documents.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ropewalk.evaluate.gradient import reading_gradient
from ropewalk.evaluate.nll import NllSum, score_reading
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.text.readings import Reading

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
    """Measures documents with a model, which it leaves unchanged."""

    def __init__(self, model: Model, terms: Sequence[str], readings_of: ReadingsOf) -> None:
        self._model = model
        self._terms = tuple(terms)
        self._readings_of = readings_of

    def measure(self, task: DocumentTask) -> DocumentMeasure:
        """Measures one document, all its readings in turn."""
        sums = dict.fromkeys(self._terms, NOTHING)
        by_log_factor, by_log_attention = None, 0.0
        for reading in self._readings_of(task.document, task.draw):
            if task.weights is None:
                with self._model.using(task.factors):
                    found = score_reading(self._model.model, reading)
            else:
                gradient = reading_gradient(self._model, reading, task.factors, task.weights)
                found = gradient.sums
                row = gradient.by_log_factor
                by_log_factor = row if by_log_factor is None else by_log_factor + row
                by_log_attention += gradient.by_log_attention
            for term, nats in found.items():
                sums[term] += nats
        return DocumentMeasure(sums=sums, by_log_factor=by_log_factor, by_log_attention=by_log_attention)
