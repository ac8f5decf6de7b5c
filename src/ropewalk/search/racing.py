"""Racing: a candidate that can no longer win is not read to the end.

Candidates read the same documents in the same order, so a challenger is compared with the best finished
candidate (the reference) token by token; sums over the same tokens are all that this needs:

    x_k   mean difference, challenger - reference, over the tokens of the first k documents (nats a token)
    x_D   the same over all D documents; the challenger wins if it is below 0
    g_k   = x_k - x_D, the gap: how far the first k documents mislead; g_D is 0, for then nothing is unknown

After k documents x_k is known and g_k is not. Tokens can't tell it, for neighbours resemble each other and
documents differ; one document can't either. But every candidate that was read to the end has shown its own
gap on these very documents. So the unit is the candidate: its gap is taken as one more draw from where the
gaps of finished candidates came from (the teachers: of the finished, those whose means are nearest to the
reference's). With m teachers, whose gaps after k documents have mean a and standard deviation s,

    x_D is estimated by   x_k - a,   standard error   s sqrt(1 + 1/m)
    drop if               x_k > max(a + t s sqrt(1 + 1/m), the largest teacher's gap)

with t the quantile of Student's distribution that leaves error / (D - 1) above it: a prediction interval for
the next draw, the error shared out evenly over the D - 1 looks (Bonferroni), and never narrower than what a
teacher was seen to do. Student's degrees of freedom are m - 1, but at most 6: teachers are relatives, so that
32 of them are worth fewer, and some documents have heavier tails than a normal draw. Unequal lengths, alike
neighbours, a misleading first document and documents that are all read are in the gaps themselves; none of
them is modelled.

What `error` means: a candidate that would have won is dropped, at any of its looks, with at most this
probability. It holds if would-be winners have gaps like those of the teachers. Teachers near the reference
are those most like a candidate that just passes it; and they ran little risk of being dropped themselves, so
what is missing among the finished hardly narrows what is learnt. The assumption is weakest for a candidate
far from everything tried before. Nothing is dropped before there are teachers enough, nor while their gaps
are all alike.

Only per-document sums are told, so a search that is resumed from a journal of them decides alike, bit
for bit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import SettingError

SMALLEST_ERROR = 1e-6  # of Student's tail; far below, it drowns in rounding
MOST_DEGREES = 6  # of freedom: without this limit t-3 or skewed documents double the error, see the tests
FEWEST_TEACHERS = 4  # below, a standard deviation is hardly one

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RacingSettings:
    """How readily a candidate is dropped.

    Attributes:
        error: the probability of dropping a candidate that would have won, over all its looks.
        num_teachers: how many finished candidates, those nearest to the reference, teach the gaps. More are
            a better sample of candidates less like the winner: mostly wider, so less is dropped.
        fewest_teachers: with fewer nothing is dropped.
        keep_best: winning is to become one of so many best; 1 keeps only who becomes the best. A strategy
            whose next candidates descend from the best n may want n.

    Raises:
        SettingError: a value out of its range.
    """

    error: float = 0.01
    num_teachers: int = 32
    fewest_teachers: int = 16
    keep_best: int = 1

    def __post_init__(self) -> None:
        if not SMALLEST_ERROR <= self.error <= 0.5:
            raise SettingError(
                f"The racing error is {self.error}, but must be at least {SMALLEST_ERROR:g} and at most 0.5."
            )
        if not FEWEST_TEACHERS <= self.fewest_teachers <= self.num_teachers:
            raise SettingError(
                f"Racing has {self.fewest_teachers} to {self.num_teachers} teachers, but needs at least "
                f"{FEWEST_TEACHERS}, and the fewest not above the number."
            )
        if self.keep_best < 1:
            raise SettingError(f"Racing keeps the {self.keep_best} best, but must keep at least 1.")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What is known of a challenger after some documents.

    Attributes:
        drop: it can no longer win; False is to go on.
        difference_nats: the estimated final mean, challenger - reference, nats a token; NaN before there is a
            reference, or if the challenger's sums are not finite.
        standard_error_nats: of that; 0 after all documents, infinite while too little is known.
        lower_bound_nats: of the final difference; above 0 is to drop.
    """

    drop: bool
    difference_nats: float
    standard_error_nats: float
    lower_bound_nats: float


@dataclass(frozen=True, kw_only=True)
class _Gaps:
    """What the teachers' gaps say of the next one, after 1 .. D documents; shape (D,), nats a token."""

    mean: Floats
    standard_error: Floats
    bound: Floats


class Race:
    """Who is ahead, and who may still win. A function of what it was told, in that order.

    Attributes:
        settings: as given.
        num_documents: D.
    """

    def __init__(self, document_tokens: Sequence[int], settings: RacingSettings) -> None:
        """`document_tokens`: the scored tokens of each document, in the order in which they are read."""
        assert len(document_tokens) > 0, "a race needs a document"
        assert min(document_tokens) > 0, document_tokens
        self.settings = settings
        self.num_documents = len(document_tokens)
        self._tokens = np.cumsum(np.asarray(document_tokens, dtype=np.float64))
        self._finished: list[Floats] = []
        self._reference: Floats | None = None
        self._gaps: _Gaps | None = None

    def finished(self, sums_nats: Sequence[float]) -> None:
        """Take note of a candidate that was read to the end.

        One whose sums are not all finite has failed: it neither leads nor teaches.

        Args:
            sums_nats: its negative log-likelihood in each document, nats, shape (D,).
        """
        assert len(sums_nats) == self.num_documents, len(sums_nats)
        means = self._means(sums_nats)
        if np.isfinite(means).all():
            self._finished.append(means)
            self._learn()

    def verdict(self, sums_nats: Sequence[float]) -> Verdict:
        """Whether a challenger can still win.

        Sums that are not finite are never dropped: the candidate fails, and is to be told as a failure.

        Args:
            sums_nats: its negative log-likelihood in each document read so far, nats, shape (k,), k <= D.
        """
        k = len(sums_nats)
        assert 1 <= k <= self.num_documents, k
        mean = float(self._means(sums_nats)[-1])
        if self._reference is None or not math.isfinite(mean):
            return _go_on(math.nan)
        difference = mean - float(self._reference[k - 1])
        if k == self.num_documents:
            return Verdict(
                drop=False,
                difference_nats=difference,
                standard_error_nats=0.0,
                lower_bound_nats=difference,
            )
        if self._gaps is None or not self._gaps.standard_error[k - 1] > 0:
            return _go_on(difference)
        lower_bound = difference - float(self._gaps.bound[k - 1])
        return Verdict(
            drop=lower_bound > 0,
            difference_nats=difference - float(self._gaps.mean[k - 1]),
            standard_error_nats=float(self._gaps.standard_error[k - 1]),
            lower_bound_nats=lower_bound,
        )

    @property
    def reference_nats(self) -> float:
        """The reference's mean over all documents, nats a token; NaN before there is one."""
        return math.nan if self._reference is None else float(self._reference[-1])

    def _means(self, sums_nats: Sequence[float]) -> Floats:
        """Nats a token over the first 1, 2 ... documents."""
        with np.errstate(invalid="ignore", over="ignore"):
            means: Floats = (
                np.cumsum(np.asarray(sums_nats, dtype=np.float64)) / self._tokens[: len(sums_nats)]
            )
        return means

    def _learn(self) -> None:
        """The reference, and the gaps of the finished nearest to it, against the reference of today."""
        keep = self.settings.keep_best
        if len(self._finished) < keep:
            return  # the next one is among the best whatever it does
        means = np.stack(self._finished)
        reference = int(np.argsort(means[:, -1], kind="stable")[keep - 1])  # of equals, the earlier is better
        self._reference = means[reference]
        differences = np.delete(means, reference, axis=0) - self._reference
        nearest = np.argsort(np.abs(differences[:, -1]), kind="stable")[: self.settings.num_teachers]
        if len(nearest) >= self.settings.fewest_teachers:
            self._gaps = self._predict(differences[nearest] - differences[nearest, -1:])

    def _predict(self, gaps: Floats) -> _Gaps:
        """The next gap, after each document, from those of the teachers, shape (m, D)."""
        m = len(gaps)
        num_looks = max(1, self.num_documents - 1)
        mean = gaps.mean(axis=0)
        standard_error = gaps.std(axis=0, ddof=1) * math.sqrt(1 + 1 / m)
        t = student_quantile(self.settings.error / num_looks, min(m - 1, MOST_DEGREES))
        bound = np.maximum(mean + t * standard_error, gaps.max(axis=0))
        return _Gaps(mean=mean, standard_error=standard_error, bound=bound)


def _go_on(difference: float) -> Verdict:
    return Verdict(
        drop=False, difference_nats=difference, standard_error_nats=math.inf, lower_bound_nats=-math.inf
    )


@lru_cache
def student_quantile(tail: float, degrees: int) -> float:
    """The t that Student's distribution exceeds with probability `tail`; 1e-8 <= tail <= 0.5."""
    low, high = 0.0, math.pi / 2  # of the angle whose tangent is t / sqrt(degrees)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if _student_tail(middle, degrees) < tail else (middle, high)
    return math.sqrt(degrees) * math.tan(low)


def _student_tail(angle: float, degrees: int) -> float:
    """P(T > sqrt(degrees) tan(angle)), by Abramowitz and Stegun 26.7.3 and 26.7.4."""
    cosine = math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = 0.0
    for i in range(1 + odd, degrees, 2):
        total += term
        term *= cosine * cosine * i / (i + 1)
    inside = math.sin(angle) * total
    return 0.5 - (angle + inside) / math.pi if odd else 0.5 - inside / 2
