"""The 95% interval of the difference of two shares, paired by question.

Two sets of factors answer the same questions, and of n questions b are answered by ours alone, c by theirs
alone. The estimate is (b - c) / n. Its interval is Newcombe's method 10 (Statistics in Medicine 17, 1998, pp.
2635-2650): the Wilson intervals of both shares, joined with their correlation. It is not degenerate where all
answers agree (b = c = 0), as Student's interval and a bootstrap are.

Questions about one document are correlated, so n is divided by the design effect (Rao and Scott, Biometrics
48, 1992): the variance of the estimate over documents, divided by its variance over independent questions,
but at least 1. The quantile is Student's with D - 1 degrees of freedom for D documents, because few documents
tell little about that variance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import scipy

from ropewalk.evaluate.intervals import CONFIDENCE, FEWEST_DOCUMENTS


@dataclass(frozen=True, kw_only=True)
class ShareDifference:
    """The difference of the shares that two sets of factors find, for the same questions.

    Attributes:
        share: ours - theirs: above 0 if ours finds more.
        low, high: its 95% interval; None for fewer than 3 documents.
        n: the number of questions.
        only_ours, only_theirs: questions that one of the two answers and the other does not.
    """

    share: float
    low: float | None
    high: float | None
    n: int
    only_ours: int
    only_theirs: int

    @property
    def is_higher(self) -> bool | None:
        """True or False if the whole interval is above or below 0, else None."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return None
        return self.low > 0

    @property
    def decision(self) -> str:
        """`decided` or `undecided`."""
        return "undecided" if self.is_higher is None else "decided"

    def as_json(self) -> dict[str, Any]:
        return {
            "share": self.share, "low": self.low, "high": self.high, "n": self.n,
            "only_ours": self.only_ours, "only_theirs": self.only_theirs, "decision": self.decision,
        }  # fmt: skip

    def __str__(self) -> str:
        """Percentage points with the interval: `-12.5 points (-20.1 to -4.2)`."""
        value = f"{100 * self.share:+.1f} points"
        if self.low is None or self.high is None:
            return f"{value} (fewer than {FEWEST_DOCUMENTS} documents, no interval)"
        return f"{value} ({100 * self.low:+.1f} to {100 * self.high:+.1f})"


def paired_share_difference(
    ours: Sequence[bool], theirs: Sequence[bool], *, documents: Sequence[int]
) -> ShareDifference:
    """Returns the difference of the shares, ours - theirs, with its interval; see the module's docstring.

    Args:
        ours, theirs: whether each question was answered, in the same order.
        documents: the document of each question.
    """
    n = len(ours)
    differences = [int(a) - int(b) for a, b in zip(ours, theirs, strict=True)]
    low, high = None, None
    num_documents = len(set(documents))
    if num_documents >= FEWEST_DOCUMENTS:
        quantile = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, num_documents - 1))
        effective = 1 / design_effect(differences, documents)
        both = sum(a and b for a, b in zip(ours, theirs, strict=True)) * effective
        low, high = newcombe(
            both, differences.count(1) * effective, differences.count(-1) * effective, n * effective, quantile
        )
    return ShareDifference(
        share=sum(differences) / n, low=low, high=high, n=n,
        only_ours=differences.count(1), only_theirs=differences.count(-1),
    )  # fmt: skip


def design_effect(values: Sequence[int], documents: Sequence[int]) -> float:
    """Returns the variance of the mean over documents / over independent values; at least 1."""
    n, mean = len(values), sum(values) / len(values)
    residuals: dict[int, float] = {}
    for value, document in zip(values, documents, strict=True):
        residuals[document] = residuals.get(document, 0.0) + value - mean
    independent = math.fsum((value - mean) ** 2 for value in values) * n / (n - 1)
    if independent == 0:
        return 1.0
    count = len(residuals)
    clustered = math.fsum(residual**2 for residual in residuals.values()) * count / (count - 1)
    return max(1.0, clustered / independent)


def newcombe(
    both: float, only_ours: float, only_theirs: float, n: float, quantile: float
) -> tuple[float, float]:
    """Method 10 for counts, which need not be integers."""
    neither = n - both - only_ours - only_theirs
    share, other = (both + only_ours) / n, (both + only_theirs) / n
    low, high = _wilson(share, n, quantile)
    other_low, other_high = _wilson(other, n, quantile)
    phi = _correlation(both, only_ours, only_theirs, neither)
    below = _joined(share - low, other_high - other, phi)
    above = _joined(high - share, other - other_low, phi)
    return max(-1.0, share - other - below), min(1.0, share - other + above)


def _joined(one: float, other: float, phi: float) -> float:
    return math.sqrt(max(0.0, one**2 - 2 * phi * one * other + other**2))


def _wilson(share: float, n: float, quantile: float) -> tuple[float, float]:
    square = quantile**2
    middle = (share + square / (2 * n)) / (1 + square / n)
    half = quantile / (1 + square / n) * math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def _correlation(both: float, only_ours: float, only_theirs: float, neither: float) -> float:
    """Phi of a 2x2 table with Newcombe's continuity correction; 0 if a margin is empty."""
    margins = (both + only_ours) * (only_theirs + neither) * (both + only_theirs) * (only_ours + neither)
    if margins <= 0:
        return 0.0
    product = both * neither - only_ours * only_theirs
    if product > 0:
        product = max(0.0, product - (both + only_ours + only_theirs + neither) / 2)
    return product / math.sqrt(margins)
