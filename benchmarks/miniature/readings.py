"""What cells add up to: perplexities and shares with intervals, and differences on the same documents."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

from ropewalk.evaluate.intervals import Difference, paired_difference, perplexity_interval, wilson
from ropewalk.evaluate.nll import NllSum


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
        return perplexity_interval(self.sums)

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
    return paired_difference(ours.sums, theirs.sums)


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
        return f"Cannot be said with {difference.n} document(s), which has it {side}"
    return {True: "Holds", False: "Does not hold", None: "Undecided"}[difference.is_lower]
