"""95% intervals of perplexities, of their paired differences, and of passkey shares.

Tokens of one document are correlated, so the sampling unit is the document. Document d of D has y_d nats in
x_d tokens. The estimate is the token-weighted mean

    m = sum of y_d / sum of x_d                     nats per token; the perplexity is exp(m)

Its interval is Student's with D - 1 degrees of freedom:

    m +- t(0.975, D - 1) s,       s = sqrt(D / (D - 1) * sum of (y_d - m x_d)^2) / sum of x_d

s is the standard error of a ratio of sums (Cochran, Sampling Techniques, chapter 6). If all documents have
the same number of tokens, as in every measurement of this package, m is the mean of the documents' means and
s its standard error. A percentile bootstrap is too narrow for few documents: with 3 its "95%" interval covers
the true mean in 76% of cases.
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
# Nats per token; float32 results of the same computation in another order differ by less.
ROUNDING_NATS = 1e-6

Interval = tuple[float, float] | tuple[None, None]


def perplexity_interval(sums: Sequence[NllSum]) -> Interval:
    """Returns the 95% interval of the perplexity over all documents.

    It is about other documents of this kind. Whether two sets of factors differ on the same documents is a
    question for `paired_difference`.

    Args:
        sums: the NLL of each document.

    Returns:
        (low, high), or (None, None) for fewer than 3 documents.
    """
    low, high = _mean_of(sums)
    return (None, None) if low is None or high is None else (perplexity_of(low), perplexity_of(high))


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The difference between two sets of factors, or two models, on the same documents.

    Attributes:
        nats: nats per token, ours - theirs: below 0 if ours is lower, and so better.
        low, high: its 95% interval; None for fewer than 3 documents or if their sums are unknown.
        n: the number of documents.
    """

    nats: float
    low: float | None
    high: float | None
    n: int

    @property
    def is_lower(self) -> bool | None:
        """True or False if the whole interval is below or above 0, else None."""
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
        """The ratio of the perplexities minus 1: -0.04 if ours is 4% lower."""
        return perplexity_of(self.nats) - 1

    def as_json(self) -> dict[str, Any]:
        return {"nats": self.nats, "low": self.low, "high": self.high, "n": self.n, "decision": self.decision}

    def __str__(self) -> str:
        """Percent of the perplexity with the interval: `-4.1% (-6.0% to -2.2%)`."""
        if self.low is None or self.high is None:
            documents = "1 document" if self.n == 1 else f"{self.n} documents"
            return f"{percent(self.nats)} ({documents}, no interval)"
        return f"{percent(self.nats)} ({percent(self.low)} to {percent(self.high)})"


def paired_difference(ours: Sequence[NllSum], theirs: Sequence[NllSum]) -> Difference:
    """Returns the difference ours - theirs, paired by document.

    The difficulty of a document cancels out, so this decides with far fewer documents than a comparison of
    two intervals.

    Args:
        ours, theirs: the NLL of each document, of the same tokens in the same order.

    Raises:
        EvaluationError: the two are of different documents.
    """
    if [entry.num_tokens for entry in ours] != [entry.num_tokens for entry in theirs]:
        raise EvaluationError(
            "The two measurements are of different documents, so they can't be paired: measure both on the "
            "same text at the same length."
        )
    each = [
        NllSum(nll_sum_nats=a.nll_sum_nats - b.nll_sum_nats, num_tokens=a.num_tokens)
        for a, b in zip(ours, theirs, strict=True)
    ]
    low, high = _mean_of(each)
    return Difference(nats=reduce(add, each).mean_nats, low=low, high=high, n=len(each))


def percent(nats: float) -> str:
    """Returns a difference in nats per token as one of the perplexity: `-4.1%`; from tenfold on `x12`."""
    ratio = perplexity_of(nats)
    return f"{ratio - 1:+.1%}" if ratio < 10 else f"x{ratio:.3g}"


def wilson(found: int, n: int) -> tuple[float, float]:
    """Returns the 95% score interval of a share found / n (Wilson, J. Am. Stat. Assoc. 22, 1927)."""
    bounds = scipy.stats.binomtest(found, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(bounds.low), float(bounds.high)


def mean_interval(totals: Sequence[float], weights: Sequence[float]) -> Interval:
    """Returns Student's 95% interval of sum(totals) / sum(weights); see the module's docstring.

    Args:
        totals, weights: one per document, e.g. nats and tokens.

    Returns:
        (low, high), or (None, None) for fewer than 3 documents.
    """
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
