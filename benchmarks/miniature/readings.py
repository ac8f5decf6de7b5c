"""What cells add up to: perplexities and shares with intervals, and differences on the same documents."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

from ropewalk.evaluate.intervals import perplexity_interval, rise_interval, wilson
from ropewalk.evaluate.nll import NllSum

SEED = 0  # of the bootstraps


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One model under one set of factors, on documents of one length.

    Attributes:
        label: of the row or column.
        sums: each document's nats and tokens.
        last_halves: those of its second half.
    """

    label: str
    length: int
    sums: tuple[NllSum, ...]
    last_halves: tuple[NllSum, ...]

    @property
    def perplexity(self) -> float:
        return reduce(add, self.sums).perplexity

    @property
    def interval(self) -> tuple[float, float] | tuple[None, None]:
        return perplexity_interval(self.sums, SEED)

    @property
    def last_half(self) -> "Reading":
        """The same of the second half alone."""
        return Reading(
            label=self.label, length=self.length, sums=self.last_halves, last_halves=self.last_halves
        )

    def __str__(self) -> str:
        low, high = self.interval
        bounds = "" if low is None or high is None else f" ({plain(low)}-{plain(high)})"
        return f"{plain(self.perplexity)}{bounds}"


@dataclass(frozen=True, kw_only=True)
class Share:
    """Passkeys found."""

    label: str
    length: int
    found: int
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.found, self.n)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.found} of {self.n} ({low:.0%}-{high:.0%})"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far one reading's perplexity lies from another's on the same documents.

    Attributes:
        ratio: of the perplexities less 1: below 0 where the first is lower.
        low, high: 95%, by a bootstrap over documents that draws both together; None below 3 documents.
    """

    ratio: float
    low: float | None
    high: float | None
    num_documents: int

    @classmethod
    def of(cls, ours: Reading, theirs: Reading) -> "Difference":
        low, high = rise_interval(theirs.sums, ours.sums, SEED)
        nats = reduce(add, ours.sums).mean_nats - reduce(add, theirs.sums).mean_nats
        return cls(
            ratio=_expm1(nats),
            low=None if low is None else _expm1(low),
            high=None if high is None else _expm1(high),
            num_documents=len(ours.sums),
        )

    @property
    def is_lower(self) -> bool | None:
        """Whether the first is lower; None where the interval holds 0, or there is none."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return None
        return self.high < 0

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            few = f"{self.num_documents} document{'s' if self.num_documents != 1 else ''}, no interval"
            return f"{percent(self.ratio)} ({few})"
        return f"{percent(self.ratio)} ({percent(self.low)} to {percent(self.high)})"


def percent(ratio: float) -> str:
    """`-4.1%`; beyond tenfold as a factor."""
    return f"{ratio:+.1%}" if ratio < 9 else f"x{ratio + 1:.3g}"


def plain(value: float) -> str:
    """A perplexity with four digits or so."""
    return f"{value:.3f}" if value < 100 else f"{value:.4g}"


def cell(value: object) -> str:
    """A table's cell; what was not measured says so."""
    return "not measured" if value is None else str(value)


def against(ours: Reading | None, theirs: Reading | None) -> Difference | None:
    """The difference, or None while one of the two is not measured."""
    if ours is None or theirs is None:
        return None
    return Difference.of(ours, theirs)


def lowest(readings: Sequence[Reading | None]) -> Reading | None:
    """The lowest perplexity of those that were measured."""
    known = [reading for reading in readings if reading is not None]
    return min(known, key=lambda reading: reading.perplexity, default=None)


def verdict(difference: Difference | None) -> str:
    """Whether a claim that the first is lower holds, in a word or two."""
    if difference is None:
        return "Cannot be said yet"
    if difference.low is None:
        side = "lower" if difference.ratio < 0 else "not lower"
        return f"Cannot be said with {difference.num_documents} document(s), which has it {side}"
    return {True: "Holds", False: "Does not hold", None: "Undecided"}[difference.is_lower]


def _expm1(nats: float) -> float:
    try:
        return math.expm1(nats)
    except OverflowError:
        return math.inf
