"""95% intervals: how far a figure may move on other documents, or in other trials.

Tokens of one document resemble each other, so the unit is the document. Of D documents, document d has y_d
nats in x_d tokens, and the figure is the token-weighted mean

    m = sum of y_d / sum of x_d                     nats per token; the perplexity is exp(m)

Its interval is Student's, with D - 1 degrees of freedom, about that same m:

    m +- t(0.975, D - 1) s,       s = sqrt(D / (D - 1) * sum of (y_d - m x_d)^2) / sum of x_d

Where all documents have the same number of tokens, as in every measurement of this package, m is the mean of
the per-document means and s their standard error. Otherwise s is the standard error of a ratio of sums
(Cochran, Sampling Techniques, chapter 6). A bootstrap over a few documents is too narrow, because their
spread is hardly known: over 3 its "95%" covers 76%.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import scipy

from ropewalk.errors import EvaluationError
from ropewalk.evaluate.nll import NllSum, perplexity_of

CONFIDENCE = 0.95
FEWEST_DOCUMENTS = 3
# Nats per token: two ways to compute the same float32 numbers differ by less.
ROUNDING_NATS = 1e-6

Interval = tuple[float, float] | tuple[None, None]


def perplexity_interval(sums: Sequence[NllSum]) -> Interval:
    """Of the perplexity of all documents together; (None, None) with fewer than 3 of them.

    It says how far other documents of this kind would move the figure, not whether two sets of factors differ
    on these: `paired_difference` does.
    """
    low, high = _mean_of(sums)
    return (None, None) if low is None or high is None else (perplexity_of(low), perplexity_of(high))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How two sets of factors, or two models, differ on the same documents.

    Attributes:
        nats: nats per token, ours - theirs; below 0 where ours is lower, and so better.
        low, high: 95% interval; None with fewer than 3 documents, or without the sums of each.
        n: documents.
    """

    nats: float
    low: float | None
    high: float | None
    n: int

    @property
    def is_lower(self) -> bool | None:
        """Whether ours is lower: True or False where the whole interval lies on one side of 0, else None."""
        if self.low is None or self.high is None:
            return None
        if self.high < 0 and self.nats < -ROUNDING_NATS:
            return True
        return False if self.low > 0 and self.nats > ROUNDING_NATS else None

    @property
    def decision(self) -> str:
        """`decided` or `undecided`."""
        return "undecided" if self.is_lower is None else "decided"

    @property
    def ratio(self) -> float:
        """Of the perplexities, less 1: -0.04 where ours is 4% lower."""
        return perplexity_of(self.nats) - 1

    def as_json(self) -> dict[str, Any]:
        return {"nats": self.nats, "low": self.low, "high": self.high, "n": self.n, "decision": self.decision}

    def __str__(self) -> str:
        """In percent of the perplexity, with the interval: `-4.1% (-6.0% to -2.2%)`."""
        if self.low is None or self.high is None:
            documents = "1 document" if self.n == 1 else f"{self.n} documents"
            return f"{percent(self.nats)} ({documents}, no interval)"
        return f"{percent(self.nats)} ({percent(self.low)} to {percent(self.high)})"


def paired_difference(ours: Sequence[NllSum], theirs: Sequence[NllSum]) -> Difference:
    """The difference on the same documents, of which both read the same tokens, in the same order.

    What makes a document hard cancels out, so it is decided far earlier than two intervals part.

    Raises:
        EvaluationError: other documents.
    """
    if [entry.num_tokens for entry in ours] != [entry.num_tokens for entry in theirs]:
        raise EvaluationError(
            "Two measurements were to be compared document by document, but they are of other documents: "
            "measure both on the same text at the same length."
        )
    each = [
        NllSum(nll_sum_nats=a.nll_sum_nats - b.nll_sum_nats, num_tokens=a.num_tokens)
        for a, b in zip(ours, theirs, strict=True)
    ]
    low, high = _mean_of(each)
    return Difference(nats=reduce(add, each).mean_nats, low=low, high=high, n=len(each))


def percent(nats: float) -> str:
    """A difference in nats per token as that of the perplexity: `-4.1%`; from tenfold on a factor, `x12`."""
    ratio = perplexity_of(nats)
    return f"{ratio - 1:+.1%}" if ratio < 10 else f"x{ratio:.3g}"


def wilson(found: int, n: int) -> tuple[float, float]:
    """Wilson's score interval of a share found / n (J. Am. Stat. Assoc. 22, 1927), within 0 .. 1."""
    bounds = scipy.stats.binomtest(found, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(bounds.low), float(bounds.high)


def mean_interval(totals: Sequence[float], weights: Sequence[float]) -> Interval:
    """Student's interval of sum(totals) / sum(weights), one of each a document; see above."""
    n = len(totals)
    if n < FEWEST_DOCUMENTS:
        return None, None
    mean = math.fsum(totals) / math.fsum(weights)
    squares = math.fsum((y - mean * x) ** 2 for y, x in zip(totals, weights, strict=True))
    standard_error = math.sqrt(n / (n - 1) * squares) / math.fsum(weights)
    half = float(scipy.stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * standard_error
    return mean - half, mean + half


def _mean_of(sums: Sequence[NllSum]) -> Interval:
    return mean_interval([entry.nll_sum_nats for entry in sums], [entry.num_tokens for entry in sums])
