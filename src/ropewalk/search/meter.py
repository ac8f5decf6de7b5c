"""DocumentMeter: measures one document of an objective under one set of factors.

A document and a set of factors are the unit of work of a search. Their measurements are independent, so that
they can be made anywhere, and are added up in the order of the documents.

A document is read exactly, or scored with keys that were kept under other factors (`evaluate.kept_keys`). A
meter keeps the keys of each document under one set of factors, and reads it again where it has no others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from ropewalk.evaluate.gradient import ReadingGradient, reading_gradient
from ropewalk.evaluate.kept_keys import KeptKeys, keep, kept_gradient, score_and_keep, score_kept
from ropewalk.evaluate.nll import NllSum, score_reading
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import Model
from ropewalk.text.readings import SCORED_SHARE, Reading, choose_targets

# The readings of a document: (index, draw) to the forward passes that measure it.
ReadingsOf = Callable[[int, int], Sequence[Reading]]
NOTHING = NllSum(nll_sum_nats=0.0, num_tokens=0)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What the keys of a document are kept under: the factors, and the draw whose tokens were read."""

    factors: RescaleFactors
    draw: int = 0


@dataclass(frozen=True, kw_only=True)
class DocumentTask:
    """What to measure.

    Attributes:
        factors: those that are installed.
        document: its index.
        draw: which facts are hidden in it, where an objective draws them.
        weights: of a nat of each term in the gradient; None if no gradient is needed.
        kept: score the document from keys that are kept under these; None to read it in full. Terms with
            many tokens then score fewer (`text.readings.choose_targets`).
        keep: keep the keys of a document that is read in full, without a gradient.
    """

    factors: RescaleFactors
    document: int
    draw: int = 0
    weights: Mapping[str, float] | None = None
    kept: Kept | None = None
    keep: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class DocumentMeasure:
    """A measured document.

    Attributes:
        sums: the nats of each term.
        by_log_factor: the derivatives of the weighted sum of nats with respect to ln lambda, shape
            (num_pairs,); None without a gradient.
        by_log_attention: with respect to ln of the attention factor.
        by_log_near_attention: with respect to ln of the near part's; 0 for plain factors.
        num_tokens: the tokens that ran through the model. The reading that keeps keys is not counted, so
            that the number is the same wherever the document was measured.
    """

    sums: Mapping[str, NllSum]
    by_log_factor: NDArray[np.float64] | None = None
    by_log_attention: float = 0.0
    by_log_near_attention: float = 0.0
    num_tokens: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class _KeptDocument:
    """The kept keys of one document: of each of its readings, under one set of factors."""

    kept: Kept
    readings: tuple[KeptKeys, ...]


class DocumentMeter:
    """Measures documents with a model, which it leaves unchanged."""

    def __init__(
        self,
        model: Model,
        terms: Sequence[str],
        readings_of: ReadingsOf,
        *,
        scored_share: float = SCORED_SHARE,
        kept_dtype: torch.dtype | None = None,
        kept_device: str | None = None,
    ) -> None:
        """Creates the meter.

        Args:
            scored_share: of each document's tokens that are scored from kept keys.
            kept_dtype, kept_device: of kept keys; None for the model's.
        """
        self._model = model
        self._terms = tuple(terms)
        self._readings_of = readings_of
        self._scored_share = scored_share
        self._keep = partial(keep, model, dtype=kept_dtype, device=kept_device)
        self._score_and_keep = partial(score_and_keep, model, dtype=kept_dtype, device=kept_device)
        self._kept: dict[int, _KeptDocument] = {}

    @property
    def num_kept_bytes(self) -> int:
        """The memory of all kept keys: of each document that was scored from them, once."""
        return sum(kept.num_bytes for document in self._kept.values() for kept in document.readings)

    def measure(self, task: DocumentTask) -> DocumentMeasure:
        """Measures one document, all its readings in turn."""
        readings = self._readings_of(task.document, task.draw)
        if task.keep:
            return self._exact_and_keep(task, readings)
        if task.kept is None:
            found = [self._exact(task, reading) for reading in readings]
        else:
            kept = self._kept_keys(task.document, task.kept)
            found = [self._from_kept(task, *one) for one in zip(kept, readings, strict=True)]
        return self._sum(found)

    def _exact(self, task: DocumentTask, reading: Reading) -> DocumentMeasure:
        if task.weights is not None:
            return _measure(
                reading_gradient(self._model, reading, task.factors, task.weights), len(reading.ids)
            )
        with self._model.using(task.factors):
            return DocumentMeasure(
                sums=score_reading(self._model.model, reading), num_tokens=len(reading.ids)
            )

    def _exact_and_keep(self, task: DocumentTask, readings: Sequence[Reading]) -> DocumentMeasure:
        assert task.kept is None, task
        assert task.weights is None, task
        self._kept.pop(task.document, None)  # before the next are made, so that both never exist at once
        found = [self._score_and_keep(reading, task.factors) for reading in readings]
        keys = tuple(kept for _, kept in found)
        self._kept[task.document] = _KeptDocument(
            kept=Kept(factors=task.factors, draw=task.draw), readings=keys
        )
        return self._sum([DocumentMeasure(sums=sums, num_tokens=len(kept.ids)) for sums, kept in found])

    def _from_kept(self, task: DocumentTask, kept: KeptKeys, reading: Reading) -> DocumentMeasure:
        chosen = choose_targets(reading, self._scored_share, draw=task.draw)
        num_tokens = len(kept.queries(chosen))
        if task.weights is not None:
            return _measure(kept_gradient(self._model, kept, chosen, task.factors, task.weights), num_tokens)
        return DocumentMeasure(
            sums=score_kept(self._model, kept, chosen, task.factors), num_tokens=num_tokens
        )

    def _kept_keys(self, document: int, kept: Kept) -> tuple[KeptKeys, ...]:
        """The keys of a document's readings; it is read again if those here are of others."""
        found = self._kept.get(document)
        if found is None or found.kept != kept:
            found = None
            self._kept.pop(document, None)  # before the next are made, so that both never exist at once
            readings = self._readings_of(document, kept.draw)
            keys = tuple(self._keep(reading.ids, kept.factors) for reading in readings)
            found = self._kept[document] = _KeptDocument(kept=kept, readings=keys)
        return found.readings

    def _sum(self, measures: Sequence[DocumentMeasure]) -> DocumentMeasure:
        """The measure of a document from those of its readings."""
        sums = dict.fromkeys(self._terms, NOTHING)
        for measure in measures:
            for term, nats in measure.sums.items():
                sums[term] += nats
        rows = [measure.by_log_factor for measure in measures if measure.by_log_factor is not None]
        return DocumentMeasure(
            sums=sums,
            by_log_factor=sum(rows[1:], rows[0]) if rows else None,
            by_log_attention=sum(measure.by_log_attention for measure in measures),
            by_log_near_attention=sum(measure.by_log_near_attention for measure in measures),
            num_tokens=sum(measure.num_tokens for measure in measures),
        )


def _measure(gradient: ReadingGradient, num_tokens: int) -> DocumentMeasure:
    return DocumentMeasure(
        sums=gradient.sums,
        by_log_factor=gradient.by_log_factor,
        by_log_attention=gradient.by_log_attention,
        by_log_near_attention=gradient.by_log_near_attention,
        num_tokens=num_tokens,
    )
