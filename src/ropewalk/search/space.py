"""The search space: bounds, step, monotone rule and knots; conversion of candidates to RescaleFactors.

    full        a lambda for every pair. Table 4 of LongRoPE (arXiv 2402.13753): from 1.0 to 1.25 s in steps
                of 0.01, never falling from pair to pair
    spline      a lambda for each of some knots, ln lambda linear in the pair index between them: every vector
                that LongRoPE's authors released is such a smooth curve, within 1-14% on 8-12 knots
    longrope2   LongRoPE2 (arXiv 2502.20082): lambda in [s, 2 s] from the real critical pair on, NTK below it

In all of them ln lambda = basis x (ln lambda at the knots), so the three are one class. n-hat comes from a
list, the attention factor from a grid of one or more values. n-hat counts tokens as in the paper, whatever
the window; one above the target leaves every position unscaled, so the list needs no limit.

Near-far factors have a window W from a list, and the attention factor of the near part besides.

Strategies that step move on whole levels (lambda of a knot = floor + level * step); strategies that follow
gradients move on coordinates: ln lambda of each knot, then ln of the attention factors.
"""

import itertools
import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import SettingError, shown
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.rope.attention_factor import longrope_attention_factor
from ropewalk.search.settings import SpaceName
from ropewalk.units import ATTENTION_FACTORS

STEP = 0.01
ATTENTION_STEP = 0.005
FINE_STEP = 0.0001  # where a curve is fitted, a knot may lie between the paper's steps
CEILING = 1.25
START_TOKENS = (0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256)
# Clean decimals in files: 1 + 7 * 0.01 is 1.07 and not 1.0699999999999998.
DECIMALS = 9

Levels = NDArray[np.int64]
Coordinates = NDArray[np.float64]
SPACE_NAMES: tuple[SpaceName, ...] = get_args(SpaceName)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One point of a space, immutable and hashable.

    Attributes:
        rescale_factors: lambda_i, one per pair.
        num_start_tokens: n-hat, tokens.
        near_window: W, tokens; 0 for plain factors. Else `rescale_factors` and `attention_factor` are those
            of the far part.
    """

    rescale_factors: tuple[float, ...]
    num_start_tokens: int
    attention_factor: float
    near_window: int = 0
    near_attention_factor: float = 1.0

    def without_start_tokens(self) -> "Candidate":
        return replace(self, num_start_tokens=0)

    def as_dict(self) -> dict[str, Any]:
        """JSON values; those of the near part only where there is one."""
        near = {"near_window": self.near_window, "near_attention_factor": self.near_attention_factor}
        return {
            "rescale_factors": list(self.rescale_factors),
            "num_start_tokens": self.num_start_tokens,
            "attention_factor": self.attention_factor,
            **(near if self.near_window else {}),
        }

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> "Candidate":
        return cls(**{**given, "rescale_factors": tuple(given["rescale_factors"])})


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """What a candidate may be.

    An extended model can be searched at a shorter length, even within its original window (readjustment):
    then `long_factors` are its factors at its longest, and the ceiling is in units of that ratio. At a target
    within the window s is at most 1, and bounds nothing: the lambda that a pair may need there lies between
    its own frequency (lambda 1) and what the model was trained with.

    Attributes:
        geometry: its `original_length` is L, the window that `target_length` is measured against.
        target_length: L', tokens.
        step: distance between consecutive lambdas of a knot.
        floor: the smallest lambda of a knot, at least 1.
        ceiling: the largest lambda of a knot, in units of s = L' / L, or of the s of
            `long_factors`.
        start_tokens: the choices for n-hat; 0 is among them.
        attention_factors: the choices for the attention factor, ascending; one, if it is not searched. Near
            part and far part have the same choices.
        near_windows: the choices for W, tokens; (0,) for plain factors. A descent keeps that of its start.
        knots: the pairs whose lambdas are free, ascending; None for every pair. Pairs after the last knot
            have its lambda; pairs before the first have lambda^(pair / first knot), which is NTK's curve.
        monotone: whether lambda may never fall from pair to pair.
        long_factors: for readjustment: factors of this model at a longer length, an initial candidate.
        trained_factors: those that the model was trained with, if known: an initial candidate too, and a
            finalist. A second search is relative to them, so there they have lambda 1 for every pair.

    Raises:
        SettingError: the target is not above the window (with `long_factors`: not below theirs), or the
            choices break these rules.
    """

    geometry: RopeGeometry
    target_length: int
    step: float = STEP
    floor: float = 1.0
    ceiling: float = CEILING
    start_tokens: tuple[int, ...] = START_TOKENS
    attention_factors: tuple[float, ...] = (1.0,)
    near_windows: tuple[int, ...] = (0,)
    knots: tuple[int, ...] | None = None
    monotone: bool = True
    long_factors: RescaleFactors | None = None
    trained_factors: RescaleFactors | None = None

    def __post_init__(self) -> None:
        _check_target(self.target_length, self.geometry, self.long_factors)
        if 0 not in self.start_tokens or min(self.start_tokens) < 0:
            raise SettingError(f"The choices of n-hat are {self.start_tokens}, but must be 0 and above.")
        if not self.attention_factors or not all(a > 0 and math.isfinite(a) for a in self.attention_factors):
            raise SettingError(
                f"The attention factors are {self.attention_factors}, but must be finite and above 0."
            )
        if list(self.attention_factors) != sorted(set(self.attention_factors)):
            raise SettingError(
                f"The attention factors are {self.attention_factors}, but must be ascending, each once."
            )
        _check_near_windows(self)
        if not (self.step > 0 and self.ceiling >= (1 if self.long_factors is None else 0)):
            raise SettingError(
                f"The step is {self.step} and the ceiling {self.ceiling} s, but must be above 0 and 1 s."
            )
        if not 1 <= self.floor <= self.largest:
            raise SettingError(
                f"The smallest lambda is {self.floor}, but must be from 1 to the largest, {self.largest:g}."
            )
        _check_knots(self.knots, self.num_pairs)

    @property
    def num_pairs(self) -> int:
        return self.geometry.num_pairs

    @property
    def knot_pairs(self) -> list[int]:
        """The pairs whose lambdas are free, ascending."""
        return list(range(self.num_pairs)) if self.knots is None else list(self.knots)

    @property
    def num_knots(self) -> int:
        return len(self.knot_pairs)

    @property
    def extension_ratio(self) -> float:
        """s = L' / L."""
        return self.target_length / self.geometry.original_length

    @property
    def is_near_far(self) -> bool:
        """Whether candidates have a near window."""
        return self.near_windows != (0,)

    @property
    def num_coordinates(self) -> int:
        """Of a candidate: its knots, its attention factor, and that of the near part if it has one."""
        return self.num_knots + 1 + self.is_near_far

    @property
    def largest(self) -> float:
        """The largest lambda of a knot, in units of which the ceiling is: for near-far factors of
        (L' - W) / (L - W), which puts every distance into the trained range."""
        if self.long_factors is not None:
            return self.ceiling * self.long_factors.extension_ratio
        widest, window = max(self.near_windows), self.geometry.original_length
        return self.ceiling * (self.target_length - widest) / (window - widest)

    @property
    def highest_level(self) -> int:
        """The level of the largest lambda on the grid."""
        return math.floor((self.largest - self.floor) / self.step + 1e-9)

    @property
    def searches_start_tokens(self) -> bool:
        return len(self.start_tokens) > 1

    @property
    def searches_attention(self) -> bool:
        return len(self.attention_factors) > 1

    @cached_property
    def basis(self) -> NDArray[np.float64]:
        """ln lambda of all pairs = basis @ ln lambda of the knots; shape (num_pairs, num_knots)."""
        if self.knots is None:
            return np.eye(self.num_pairs)
        pairs, knots = np.arange(self.num_pairs), np.array(self.knots)
        columns = [np.interp(pairs, knots, row) for row in np.eye(len(knots))]
        basis = np.stack(columns, axis=1)
        below = pairs < knots[0]
        basis[below, 0] = pairs[below] / knots[0]
        return basis

    # ---------------------------------------------------------------- levels: whole numbers, one per knot

    def candidate(
        self,
        levels: Levels,
        num_start_tokens: int,
        attention_factor: float,
        near_window: int = 0,
        near_attention_factor: float = 1.0,
    ) -> Candidate:
        """The candidate at these levels, one per knot."""
        at_knots = np.round(self.floor + levels * self.step, DECIMALS)
        if self.knots is None:
            rescale_factors = at_knots
        else:
            rescale_factors = np.array(
                [math.exp(v) for v in self.basis @ np.array([*map(math.log, at_knots)])]
            )
            rescale_factors[list(self.knots)] = at_knots
        return Candidate(
            rescale_factors=tuple(round(float(value), DECIMALS) for value in rescale_factors),
            num_start_tokens=int(num_start_tokens),
            attention_factor=float(attention_factor),
            near_window=int(near_window),
            near_attention_factor=float(near_attention_factor),
        )

    def levels(self, candidate: Candidate) -> Levels:
        """The nearest levels of a candidate's lambdas at the knots, shape (num_knots,)."""
        return self._nearest(self._at_knots(candidate))

    def legal(self, levels: Levels) -> Levels:
        """The nearest levels within bounds, and in order where they must be."""
        levels = np.clip(levels, 0, self.highest_level)
        return np.maximum.accumulate(levels) if self.monotone else levels

    def snap(self, factors: RescaleFactors) -> Candidate:
        """The nearest candidate of a closed-form scheme: on the grid, within bounds, in order.

        n-hat is 0, attention factors are the nearest choices to the scheme's own, and W is the scheme's.

        Raises:
            FactorsError: near-far factors, and this is another space.
        """
        if not self.is_near_far:
            factors.require_plain("An initial candidate of this search")
        rescale_factors = factors.array()[0]
        if self.knots is not None:
            fitted, *_ = np.linalg.lstsq(self.basis, np.log(rescale_factors), rcond=None)
            rescale_factors = np.exp(np.maximum(fitted, 0.0))
        levels = self.legal(self._nearest(rescale_factors))
        attention = self.nearest_attention(factors.attention_factor)
        near = self.nearest_attention(factors.near_attention_factor) if factors.is_near_far else 1.0
        return self.candidate(levels, 0, attention, factors.near_window, near)

    def nearest_attention(self, attention_factor: float) -> float:
        """The nearest choice."""
        return min(self.attention_factors, key=lambda choice: abs(choice - attention_factor))

    def contains(self, candidate: Candidate) -> bool:
        """Whether a candidate is on the grid, within bounds, in order, and of the listed choices."""
        if len(candidate.rescale_factors) != self.num_pairs:
            return False
        levels = self.levels(candidate)
        exact = replace(
            candidate, rescale_factors=self.candidate(levels, 0, candidate.attention_factor).rescale_factors
        )
        return (
            exact == candidate
            and bool((levels == self.legal(levels)).all())
            and candidate.num_start_tokens in self.start_tokens
            and candidate.attention_factor in self.attention_factors
            and candidate.near_window in self.near_windows
            and candidate.near_attention_factor in (self.attention_factors if self.is_near_far else (1.0,))
        )

    # ---------------------------------------------------------------- coordinates: ln lambda, ln attention

    def coordinates(self, candidate: Candidate) -> Coordinates:
        """ln lambda at each knot, ln of the attention factor, and that of the near part if it has one; shape
        (num_coordinates,)."""
        near = [candidate.near_attention_factor] if self.is_near_far else []
        values = np.concatenate((self._at_knots(candidate), [candidate.attention_factor], near))
        logs: Coordinates = np.log(values)
        return logs

    def nearest(
        self, coordinates: Coordinates, num_start_tokens: int = 0, near_window: int | None = None
    ) -> Candidate:
        """The nearest candidate: bounds and order are kept, then the grid.

        Args:
            near_window: W, one of the choices; None takes the first.
        """
        kept = np.exp(self.clip(coordinates))
        levels = self.legal(self._nearest(kept[: self.num_knots]))
        attention = [self.nearest_attention(float(value)) for value in kept[self.num_knots :]]
        window = self.near_windows[0] if near_window is None else near_window
        return self.candidate(
            levels, num_start_tokens, attention[0], window, attention[-1] if self.is_near_far else 1.0
        )

    def clip(self, coordinates: Coordinates) -> Coordinates:
        """The nearest coordinates within bounds and in order, not on the grid."""
        largest = self.floor + self.highest_level * self.step
        knots, attention = np.split(coordinates, [self.num_knots])
        knots = knots.clip(math.log(self.floor), math.log(largest))
        if self.monotone:
            knots = nearest_ascending(knots)
        lowest, highest = math.log(self.attention_factors[0]), math.log(self.attention_factors[-1])
        kept: Coordinates = np.append(knots, attention.clip(lowest, highest))
        return kept

    def pull_back(
        self,
        by_log_factor: NDArray[np.float64],
        by_log_attention: float,
        by_log_near_attention: float = 0.0,
    ) -> Coordinates:
        """A gradient by ln lambda of every pair and by ln of the attention factors, in coordinates.

        The derivative by an attention factor that is not searched is 0.

        Returns:
            Shape (num_coordinates,).
        """
        attention = [by_log_attention, by_log_near_attention][: self.num_coordinates - self.num_knots]
        searched = np.array(attention) * self.searches_attention
        pulled: Coordinates = np.append(by_log_factor @ self.basis, searched)
        return pulled

    def to_factors(self, candidate: Candidate) -> RescaleFactors:
        return RescaleFactors.single(
            geometry=self.geometry,
            target_length=self.target_length,
            rescale_factors=candidate.rescale_factors,
            num_start_tokens=candidate.num_start_tokens,
            attention_factor=candidate.attention_factor,
            near_window=candidate.near_window,
            near_attention_factor=candidate.near_attention_factor,
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything that a repetition needs, as JSON values."""
        known = {"longer": self.long_factors, "tuned_with": self.trained_factors}
        return {
            "geometry": self.geometry.as_dict(),
            "target_length": self.target_length,
            "step": self.step,
            "floor": self.floor,
            "ceiling": self.ceiling,
            "start_tokens": list(self.start_tokens),
            "attention_factors": list(self.attention_factors),
            "knots": None if self.knots is None else list(self.knots),
            "monotone": self.monotone,
            **({"near_windows": list(self.near_windows)} if self.is_near_far else {}),
            **{name: factors.as_values() for name, factors in known.items() if factors is not None},
        }

    def _at_knots(self, candidate: Candidate) -> NDArray[np.float64]:
        every = np.array(candidate.rescale_factors)
        return every if self.knots is None else every[list(self.knots)]

    def _nearest(self, rescale_factors: NDArray[np.float64]) -> Levels:
        return np.rint((rescale_factors - self.floor) / self.step).astype(np.int64)


def _check_target(target_length: int, geometry: RopeGeometry, long_factors: RescaleFactors | None) -> None:
    window = geometry.original_length
    if long_factors is None:
        if target_length <= window:
            raise SettingError(
                f"The target length is {target_length} tokens, but this model already reads {window}: "
                f"nothing to extend, give a target above {window}."
            )
        return
    if not 2 <= target_length < long_factors.target_length:
        raise SettingError(
            f"The length to readjust is {target_length} tokens, but must be at least 2 and below the "
            f"{long_factors.target_length} that the model was extended to."
        )
    long_factors.require_geometry(geometry, "this space")


def _check_near_windows(space: SearchSpace) -> None:
    """A near-far space extends a plain model: its candidates all have a window below L, and no n-hat."""
    if not space.is_near_far:
        return
    window = space.geometry.original_length
    if not all(0 < near_window < window for near_window in space.near_windows):
        given = ", ".join(map(str, space.near_windows))
        raise SettingError(
            f"The near window is {given} tokens, but must be below the model's window of {window}: give 1 to "
            f"{window - 1}, or search."
        )
    if space.searches_start_tokens or space.long_factors is not None:
        raise SettingError(
            "Factors with a near window have no start tokens, and need no readjustment: leave one of the two "
            "out."
        )


def _check_knots(knots: tuple[int, ...] | None, num_pairs: int) -> None:
    if knots is None:
        return
    ascending = all(a < b for a, b in itertools.pairwise(knots))
    if not knots or not ascending or knots[0] < 0 or knots[-1] >= num_pairs:
        raise SettingError(
            f"The knots are {knots}, but must be ascending pairs of the {num_pairs} that there are, from 0."
        )


def nearest_ascending(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The ascending vector nearest in least squares (pool adjacent violators).

    `scipy.optimize.isotonic_regression` sums in another order, so its last bits differ, and with them the
    factors of a recorded search.
    """
    blocks: list[tuple[float, int]] = []
    for value in values.tolist():
        mean, count = value, 1
        while blocks and blocks[-1][0] > mean:
            before, num_before = blocks.pop()
            mean = (before * num_before + mean * count) / (num_before + count)
            count += num_before
        blocks.append((mean, count))
    return np.array([mean for mean, count in blocks for _ in range(count)])


def attention_choices(setting: str | float, geometry: RopeGeometry, target_length: int) -> tuple[float, ...]:
    """The choices that `--attention-factor` gives: `1`, another number, `longrope`, or `search`.

    `longrope` is sqrt(1 + ln s / ln L), what engines compute. `search` is a grid of 0.005 from 1 to
    1 + 0.2 ln s, which is twice as far as YaRN goes, and at least to `longrope`.

    Raises:
        SettingError: none of these.
    """
    extension_ratio = target_length / geometry.original_length
    computed = longrope_attention_factor(extension_ratio, geometry.original_length)
    if setting == "longrope":
        return (computed,)
    if setting == "search":
        above_1 = max(0.2 * math.log(max(1.0, extension_ratio)), computed - 1)
        num_steps = math.ceil(above_1 / ATTENTION_STEP)
        return tuple(round(1 + k * ATTENTION_STEP, DECIMALS) for k in range(num_steps + 1))
    try:
        value = float(setting)
    except (ValueError, OverflowError):
        value = math.nan
    least, most = ATTENTION_FACTORS
    if not least <= value <= most:
        raise SettingError(
            f"The attention factor is {shown(setting)}, but must be a number from {least:g} to {most:g}, "
            f"`longrope` or `search`."
        )
    return (value,)


def near_window_choices(setting: int | str, geometry: RopeGeometry) -> tuple[int, ...]:
    """The choices of W that `--near-window` gives: a number, or for `search` L/8, L/4 and L/2."""
    if setting == "search":
        return tuple(max(1, geometry.original_length // parts) for parts in (8, 4, 2))
    return (int(setting),)


def start_token_choices(setting: str) -> tuple[int, ...]:
    """The choices of n-hat that `--start-tokens` gives: `search` is the paper's list, `none` keeps 0.

    Raises:
        SettingError: neither of the two.
    """
    if setting not in ("search", "none"):
        raise SettingError(f"The start tokens are {setting!r}, but must be `search` or `none`.")
    return START_TOKENS if setting == "search" else (0,)
