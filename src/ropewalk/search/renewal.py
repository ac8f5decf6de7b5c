"""When kept keys are renewed: a trust region around the factors that they were kept under.

A document that was read once under some factors judges others from its kept keys (`evaluate.kept_keys`):
exactly in the first layer, approximately above. The error grows with the distance between both. So each
document's keys are renewed at the centre, which is the point of a descent or the best candidate so far, where
this has moved away by more than the radius:

    renewal      the centre is judged with the old keys, and read in full; the difference is the error
    radius       the next distance at which this error should be the tolerance, if it grows in proportion

Renewals cost readings. They have a budget of their own; when it is spent, the keys stay.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ropewalk.search.meter import Kept
from ropewalk.search.space import Candidate

TOLERANCE = 0.005  # of ln value
FIRST_RADIUS = 0.3
MOST_CHANGE = 2.0  # of the radius at a renewal
ATTENTION_WEIGHT = 3.0  # a score has the square of the attention factor, and every pair
START_WEIGHT = 0.1  # of ln(1 + n-hat): from 0 to 256 start tokens, values were wrong by 0.2


@dataclass(frozen=True, kw_only=True)
class Renewal:
    """The renewal of some documents' keys, as a trial records it.

    Attributes:
        documents: their indices.
        cost: in forward passes over all search documents.
        error: the difference of ln value at the centre, between judging it with the old keys and reading it;
            None where there were none.
    """

    documents: tuple[int, ...]
    cost: float
    error: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"documents": list(self.documents), "cost": self.cost, "error": self.error}


@dataclass
class TrustRegion:
    """Which keys each document has, and when they are renewed.

    Attributes:
        budget: of all renewals, in forward passes over all search documents; a document's first keys may
            always be made.
        radius: the largest distance of the centre from the candidate that keys were kept under.
        largest_error: of all renewals so far.
    """

    budget: float
    radius: float = FIRST_RADIUS
    spent: float = 0.0
    largest_error: float = 0.0
    _kept: dict[int, tuple[Candidate, Kept]] = field(default_factory=dict)

    def kept(self, document: int) -> Kept | None:
        """What the document's keys were kept under."""
        return self._kept[document][1] if document in self._kept else None

    def due(self, documents: Iterable[int], centre: Candidate, costs: tuple[float, ...]) -> tuple[int, ...]:
        """The documents whose keys are renewed now.

        Args:
            costs: of renewing the keys of each document of the search. First keys are reserved at this cost
                too, which is more than they cost.
        """
        first = sum(cost for document, cost in enumerate(costs) if document not in self._kept)
        left, due = self.budget - self.spent - first, []
        for document in documents:
            if document not in self._kept:
                due.append(document)
            elif self._distance(document, centre) > self.radius and costs[document] <= left:
                due.append(document)
                left -= costs[document]
        return tuple(due)

    def record(self, renewal: Renewal, centre: Candidate, kept: Kept) -> None:
        """Take a renewal, new or recorded.

        Args:
            kept: the centre's factors, and the draw.
        """
        if renewal.error is not None:
            distance = max(self._distance(document, centre) for document in renewal.documents)
            wanted = distance * TOLERANCE / max(renewal.error, 1e-9)
            self.radius = float(np.clip(wanted, self.radius / MOST_CHANGE, self.radius * MOST_CHANGE))
            self.largest_error = max(self.largest_error, renewal.error)
        self.spent += renewal.cost
        for document in renewal.documents:
            self._kept[document] = (centre, kept)

    def _distance(self, document: int, centre: Candidate) -> float:
        return distance(self._kept[document][0], centre)


def distance(one: Candidate, other: Candidate) -> float:
    """The largest of: the root mean square difference in ln lambda, and the weighted ones in ln attention and
    in ln(1 + n-hat); infinite between candidates of different near windows."""
    if one.near_window != other.near_window:
        return math.inf
    by_pair = np.log(one.rescale_factors) - np.log(other.rescale_factors)
    far = abs(np.log(one.attention_factor / other.attention_factor))
    near = abs(np.log(one.near_attention_factor / other.near_attention_factor))
    attention = max(far, near)
    start_tokens = abs(np.log1p(one.num_start_tokens) - np.log1p(other.num_start_tokens))
    weighted = ATTENTION_WEIGHT * attention, START_WEIGHT * start_tokens
    return float(max(np.sqrt(np.mean(by_pair**2)), *weighted))
