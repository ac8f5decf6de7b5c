"""What `near_far.py` measured: the chosen attention factors, comparisons, and which targets are met."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from facts_measured import (
    BASE,
    CLOSED,
    DEFAULT,
    FOUR,
    RAMPS,
    SEEN,
    UNDECIDED,
    UNSEEN,
    Measured,
    lowest,
    median_of,
    median_search,
)
from facts_targets import MET, MISSED, UNKNOWN
from near_far_speed import LIMITS, Cost, costs
from ropewalk.evaluate.intervals import Difference
from ropewalk.evaluate.shares import ShareDifference
from ropewalk.rope.schemes import NEAR_FAR

KINDS = (SEEN, UNSEEN, FOUR)
SEARCHED = "near-far search"  # a group of factors
BY_LENGTH = "near-far by length"  # the closed form, made for the length of each text
MOST_OF_CLOSED, MOST_OF_SEARCHED, LEAST_OF_BASE = 0.88, 0.92, 0.95


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Attention factors that were tried with one window.

    Attributes:
        window: W, tokens.
        far, near: attention factors.
        value: of the objective of the default search, on search documents; the lowest is chosen.
    """

    window: int
    far: float
    near: float
    value: float

    @property
    def scheme(self) -> str:
        return near_far_scheme(self.window, self.far, self.near)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def near_far_scheme(window: int, far: float, near: float) -> str:
    """The scheme in words, which is the label too."""
    return f"{NEAR_FAR}:window={window},attention_factor={far:g},near_attention_factor={near:g}"


def choices(seen: Measured) -> list[Choice]:
    return [Choice(**one) for name, one in seen.values.items() if name.startswith("choice ")]


def chosen(seen: Measured, window: int | None = None) -> Choice | None:
    """The one with the lowest value on search documents, of one window or of all."""
    tried = [one for one in choices(seen) if window in (None, one.window)]
    return min(tried, key=lambda one: one.value, default=None)


def judged(seen: Measured) -> list[str]:
    """The near-far factors that targets judge: the chosen closed form, and the median seed of the search."""
    best = chosen(seen)
    closed = [] if best is None or best.scheme not in seen.labels(NEAR_FAR) else [best.scheme]
    searched = [label for label in [median_of(seen, SEARCHED)] if label is not None]
    return [*closed, *searched, *(label for label in [BY_LENGTH] if label in seen.labels(NEAR_FAR))]


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """One perplexity divided by another on the same documents, with its interval; None if there is none."""

    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, difference: Difference) -> "Ratio":
        low, high = (None if end is None else math.exp(end) for end in (difference.low, difference.high))
        return cls(value=math.exp(difference.nats), low=low, high=high)

    def __str__(self) -> str:
        value = f"{self.value:.3f}"
        if self.low is None or self.high is None:
            return value
        return f"{value} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True, kw_only=True)
class Found:
    """Near-far factors at one length, and the base model inside its window: questions of one kind.

    Attributes:
        found, of_base: right answers of the same number of questions.
        difference: near-far - base.
    """

    kind: str
    length: int
    found: int
    of_base: int
    difference: ShareDifference

    @property
    def ratio(self) -> float:
        return self.found / self.of_base if self.of_base else math.inf

    @property
    def result(self) -> str:
        """Of the target: at least 95% of what the base model finds, whose share is taken as known."""
        allowed = (LEAST_OF_BASE - 1) * self.of_base / self.difference.n
        is_met = self.found >= LEAST_OF_BASE * self.of_base
        return result(is_met, allowed, self.difference.low, self.difference.high)


def found(seen: Measured, label: str, lengths: Sequence[int], window: int) -> Iterator[Found]:
    """Each kind and length that near-far factors and the base model in its window were asked."""
    for kind in KINDS:
        if BASE not in seen.labels(BASE) or seen.answers(BASE, kind, window) is None:
            continue
        for length in lengths:
            if seen.answers(label, kind, length) is not None:
                yield Found(
                    kind=kind,
                    length=length,
                    found=seen.right(label, kind, length),
                    of_base=seen.right(BASE, kind, window),
                    difference=seen.share_difference(label, BASE, kind, length, window),
                )


def result(is_met: bool, limit: float, low: float | None, high: float | None) -> str:
    """Met if the estimate is; else undecided if its interval contains the limit."""
    if is_met:
        return MET
    if low is None or high is None:
        return MISSED
    return UNDECIDED if low <= limit <= high else MISSED


def targets(seen: Measured, about: Mapping[str, Any]) -> list[list[str]]:
    """A row for each: the target, whose factors, what was measured, and whether it is met."""
    rows = []
    for ours in judged(seen):
        rows += [
            perplexity_target(
                seen, ours, "the best closed form's", lowest(seen, CLOSED, RAMPS), MOST_OF_CLOSED
            ),
            perplexity_target(
                seen, ours, "the default search's (median seed)", median_search(seen), MOST_OF_SEARCHED
            ),
            perplexity_target(seen, ours, "the lowest of its seeds", lowest(seen, DEFAULT), MOST_OF_SEARCHED),
            retrieval_target(seen, ours, about["lengths"], about["window"]),
        ]
    return rows + cost_targets(costs(seen.values))


def perplexity_target(seen: Measured, ours: str, whose: str, rival: str | None, limit: float) -> list[str]:
    target = f"perplexity at most {limit:g} of {whose}"
    if rival is None or not seen.has_sums(ours):
        return [target, ours, "", UNKNOWN]
    ratio = Ratio.of(seen.difference(ours, rival))
    return [target, ours, f"{ratio} of {rival}", result(ratio.value <= limit, limit, ratio.low, ratio.high)]


def retrieval_target(seen: Measured, ours: str, lengths: Sequence[int], window: int) -> list[str]:
    target = f"answers at every length at least {LEAST_OF_BASE:.0%} of the base model's in its window"
    every = list(found(seen, ours, lengths, window))
    if not every:
        return [target, ours, "", UNKNOWN]
    behind = [one for one in every if one.result != MET]
    shown = "; ".join(f"{one.kind}, {one.length}: {one.ratio:.0%}, {one.result}" for one in behind)
    about = f"below at {len(behind)} of {len(every)}" + (f" ({shown})" if shown else "")
    worst = MISSED if any(one.result == MISSED for one in behind) else UNDECIDED
    return [target, ours, about, worst if behind else MET]


def cost_targets(of_lengths: Sequence[Cost]) -> list[list[str]]:
    """Of the longest text whose costs were measured."""
    last = max(of_lengths, key=lambda one: one.length, default=None)
    rows = []
    for what, limit in LIMITS.items():
        target = f"{what} at most {limit:g} times that of plain SDPA attention"
        if last is None:
            rows.append([target, NEAR_FAR, "", UNKNOWN])
            continue
        value = last.ratios[what]
        rows.append(
            [target, NEAR_FAR, f"{value:.3f} at {last.length} tokens", MET if value <= limit else MISSED]
        )
    return rows
