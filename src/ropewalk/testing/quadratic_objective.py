"""A quadratic objective instead of a model, and search spaces of every kind, to test strategies."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from ropewalk.evaluate.nll import NllSum
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.search.meter import DocumentMeasure, DocumentTask
from ropewalk.search.named_spaces import make_space
from ropewalk.search.objective import Objective, Term
from ropewalk.search.objectives import from_windows
from ropewalk.search.space import SearchSpace
from ropewalk.text.windows import TokenWindow

NUM_DOCUMENTS = 4
BEST_ATTENTION = 1.1
SPREAD = 0.05  # of the documents' minima, in ln lambda

GEOMETRY = RopeGeometry(head_dim=16, rotary_dim=16, rope_theta=625.0, original_length=256, num_layers=2)
TARGET_LENGTH = 2048


class QuadraticObjective(Objective):
    """A fast objective with exact gradients and a known minimum.

    The NLL of a document is quadratic in ln lambda and in ln of the attention factor. The sum over all
    documents has its minimum at ln lambda_i = (i / n)^2 ln s for n pairs, attention factor 1.1, and n-hat 1;
    each document's own minimum differs slightly.
    """

    def __init__(
        self,
        space: SearchSpace,
        num_documents: int = NUM_DOCUMENTS,
        *,
        cost: float = 1.0,
        spread: float = SPREAD,
    ) -> None:
        """Creates the objective.

        Args:
            num_documents: the number of documents.
            cost: of a value of all documents, in forward passes.
            spread: how far the minima of the documents differ, in ln lambda.
        """
        term = Term(name="quadratic", weight=1.0)
        window = TokenWindow(ids=torch.zeros(2, dtype=torch.int64), num_scored=1)
        self.readings = from_windows(term, ((window,),) * num_documents)
        self.terms = (term,)
        self.space = space
        self.from_kept = False
        self.costs = self.full_costs = self.kept_costs = (cost / num_documents,) * num_documents
        self.gradient_cost = 3.0
        self._base_factors = None
        self._measure_all = lambda tasks, ahead=(): map(self.measure_document, tasks)
        pairs = np.arange(space.num_pairs)
        shifts = spread * np.cos(pairs + 2.0 * np.arange(num_documents)[:, None])
        self._shifts = shifts - shifts.mean(axis=0)
        self._minima = (pairs / space.num_pairs) ** 2 * math.log(space.extension_ratio) + self._shifts

    @property
    def name(self) -> str:
        return f"quadratic objective of {self.num_documents} documents"

    def nats(self, factors: RescaleFactors, document: int) -> float:
        """The NLL of a document."""
        away, attention = self._away(factors, document)
        start = 0.01 * factors.num_start_tokens or 1.0
        return float(1.0 + away @ away + 100 * attention**2 + start)

    def measure_document(self, task: DocumentTask) -> DocumentMeasure:
        """Measures one document, as a `DocumentMeter` does."""
        sums = {"quadratic": NllSum(nll_sum_nats=self.nats(task.factors, task.document), num_tokens=1)}
        if task.weights is None:
            return DocumentMeasure(sums=sums)
        away, attention = self._away(task.factors, task.document)
        weight = task.weights["quadratic"]
        return DocumentMeasure(
            sums=sums, by_log_factor=weight * 2 * away, by_log_attention=weight * 200 * attention
        )

    def _away(self, factors: RescaleFactors, document: int) -> tuple[NDArray[np.float64], float]:
        away = np.log(factors.rescale_factors[0]) - self._minima[document]
        return away, math.log(factors.attention_factor / BEST_ATTENTION)


def spaces() -> dict[str, SearchSpace]:
    """Returns search spaces by name: each kind, monotone and free, small and with everything searched."""
    searched = {"start_tokens": (0, 1, 4, 16), "attention_factors": (1.0, 1.05, 1.1, 1.15)}
    fixed = {"start_tokens": (0,), "attention_factors": (1.1,)}
    found = {}
    for name in ("full", "spline", "longrope2"):
        for monotone in (True, False):
            for what, choices in (("all searched", searched), ("lambda only", fixed)):
                full = SearchSpace(geometry=GEOMETRY, target_length=TARGET_LENGTH, **choices)
                order = "monotone" if monotone else "free"
                found[f"{name}, {order}, {what}"] = make_space(name, full, monotone=monotone)
    found["full, n-hat searched"] = SearchSpace(geometry=GEOMETRY, target_length=TARGET_LENGTH)
    found["spline, attention searched"] = make_space(
        "spline",
        SearchSpace(
            geometry=GEOMETRY, target_length=1000, start_tokens=(0,), attention_factors=(1.0, 1.05, 1.1)
        ),
    )
    found["full, barely longer"] = SearchSpace(geometry=GEOMETRY, target_length=300)
    return found
