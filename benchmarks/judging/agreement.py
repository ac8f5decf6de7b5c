"""How well values from kept keys agree with exact ones."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, spearmanr

CONFIDENCE = 0.95
DISTANCES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, math.inf)
START_TOKENS = (0, 1, 16, 64, math.inf)
Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Rank:
    """Spearman's rank correlation of n candidates, with its interval; None below 4 candidates."""

    number: float
    interval: tuple[float, float] | None

    @classmethod
    def of(cls, found: Values, exact: Values) -> "Rank":
        number = float(spearmanr(found, exact).statistic)
        return cls(number=number, interval=rank_interval(number, len(found)))

    def __str__(self) -> str:
        if self.interval is None:
            return f"{self.number:.3f}"
        low, high = self.interval
        return f"{self.number:.3f} ({low:.3f} to {high:.3f})"


def rank_interval(rank: float, num_candidates: int) -> tuple[float, float] | None:
    """The interval of Spearman's rank correlation, by Fisher's transformation.

    The standard error is that of Bonett and Wright (Psychometrika 65, 2000), sqrt((1 + r^2 / 2) / (n - 3)).
    Candidates count as independent, which those of one evolution are not.
    """
    if num_candidates < 4 or math.isnan(rank):
        return None
    if abs(rank) == 1:
        return rank, rank
    error = math.sqrt((1 + rank**2 / 2) / (num_candidates - 3))
    half = float(norm.ppf((1 + CONFIDENCE) / 2)) * error
    return math.tanh(math.atanh(rank) - half), math.tanh(math.atanh(rank) + half)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Of judged values with exact ones of the same tokens, and of all tokens; ln values, nats.

    Attributes:
        num_candidates: that are compared.
        same_tokens, all_tokens: the rank correlation with exact values.
        few_tokens: of the two exact values with each other: what is lost where few tokens are scored.
        mean_error, largest_error: of judged values, on the same tokens.
        range: of the exact values of all tokens.
        lost: the exact value of all tokens of the candidate that is judged best, above the best one.
    """

    num_candidates: int
    same_tokens: Rank
    all_tokens: Rank
    few_tokens: Rank
    mean_error: float
    largest_error: float
    range: float
    lost: float

    @classmethod
    def of(cls, judged: Values, same: Values, everything: Values) -> "Agreement":
        errors = abs(judged - same)
        return cls(
            num_candidates=len(judged),
            same_tokens=Rank.of(judged, same),
            all_tokens=Rank.of(judged, everything),
            few_tokens=Rank.of(same, everything),
            mean_error=float(errors.mean()),
            largest_error=float(errors.max()),
            range=float(np.ptp(everything)),
            lost=float(everything[judged.argmin()] - everything.min()),
        )

    def cells(self) -> list[str]:
        """For a table; the columns are `HEAD`."""
        ranks = [str(self.all_tokens), str(self.same_tokens), f"{self.few_tokens.number:.3f}"]
        nats = [self.mean_error, self.largest_error, self.range, self.lost]
        return [str(self.num_candidates), *ranks, *(f"{value:.4f}" for value in nats)]


HEAD = (
    "candidates",
    "rank, all tokens",
    "rank, same tokens",
    "rank of the exact two",
    "mean error",
    "largest error",
    "range",
    "lost",
)


@dataclass(frozen=True, kw_only=True)
class Bin:
    """The errors of candidates whose distance is at least `low` and below `high`, in nats."""

    low: float
    high: float
    num_candidates: int
    mean_error: float
    largest_error: float

    @property
    def label(self) -> str:
        return f"{self.low:g} and more" if math.isinf(self.high) else f"{self.low:g} to {self.high:g}"


def in_bins(distances: Sequence[float], errors: Values, borders: Sequence[float]) -> Iterator[Bin]:
    """The bins that have a candidate; a distance on a border belongs to the bin above it."""
    at = np.array(distances)
    for low, high in pairwise(borders):
        inside = abs(errors[(at >= low) & (at < high)])
        if len(inside):
            mean, largest = float(inside.mean()), float(inside.max())
            yield Bin(low=low, high=high, num_candidates=len(inside), mean_error=mean, largest_error=largest)
