"""Where a search looks: bounds, step and monotone rule; candidate <-> RescaleFactors.

Table 4 of LongRoPE (arXiv 2402.13753): lambda_i from 1.0 to 1.25 s in steps of 0.01, lambda_i never above
lambda_{i+1}, n-hat from a list. The attention factor is one value, or a grid as a further coordinate.
n-hat counts tokens as in the paper, whatever the window; one beyond the target only means "not rescaled
at all", so none is left out of the list.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import SettingError
from ropewalk.factors import RescaleFactors
from ropewalk.geometry import RopeGeometry
from ropewalk.rope.attention_scale import longrope_attention_factor

STEP = 0.01
CEILING = 1.25
START_TOKENS = (0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 64, 128, 256)
# Clean decimals in files: 1 + 7 * 0.01 is 1.07 and not 1.0699999999999998.
DECIMALS = 9

Levels = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One point of a space: a value that can be compared, hashed and written down.

    Attributes:
        rescale_factors: lambda_i, one a pair.
        num_start_tokens: n-hat, tokens.
    """

    rescale_factors: tuple[float, ...]
    num_start_tokens: int
    attention_factor: float

    def without_start_tokens(self) -> "Candidate":
        return Candidate(
            rescale_factors=self.rescale_factors, num_start_tokens=0, attention_factor=self.attention_factor
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "rescale_factors": list(self.rescale_factors),
            "num_start_tokens": self.num_start_tokens,
            "attention_factor": self.attention_factor,
        }

    @classmethod
    def from_dict(cls, given: dict[str, Any]) -> "Candidate":
        return cls(
            rescale_factors=tuple(given["rescale_factors"]),
            num_start_tokens=given["num_start_tokens"],
            attention_factor=given["attention_factor"],
        )


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """What a candidate may be. Strategies move on whole numbers: lambda = 1 + level * step.

    Attributes:
        geometry: its `original_length` is L, the window that `target_length` is measured against.
        target_length: L', tokens.
        step: distance of two neighbouring lambdas.
        ceiling: the largest lambda, in units of s = L' / L.
        start_tokens: the choices for n-hat; 0 is among them.
        attention_factors: the choices for the attention factor; one, if it is not searched.

    Raises:
        SettingError: the target is not above the window, or the choices break these rules.
    """

    geometry: RopeGeometry
    target_length: int
    step: float = STEP
    ceiling: float = CEILING
    start_tokens: tuple[int, ...] = START_TOKENS
    attention_factors: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        window = self.geometry.original_length
        if self.target_length <= window:
            raise SettingError(
                f"The target length is {self.target_length} tokens, but this model already reads {window}: "
                f"nothing to extend, give a target above {window}."
            )
        if 0 not in self.start_tokens or min(self.start_tokens) < 0:
            raise SettingError(f"The choices of n-hat are {self.start_tokens}, but must be 0 and above.")
        if not self.attention_factors or not all(a > 0 and math.isfinite(a) for a in self.attention_factors):
            raise SettingError(
                f"The attention factors are {self.attention_factors}, but must be finite and above 0."
            )
        if not (self.step > 0 and self.ceiling >= 1):
            raise SettingError(
                f"The step is {self.step} and the ceiling {self.ceiling} s, but must be above 0 and 1 s."
            )

    @property
    def num_pairs(self) -> int:
        return self.geometry.num_pairs

    @property
    def extension_ratio(self) -> float:
        """s = L' / L."""
        return self.target_length / self.geometry.original_length

    @property
    def highest_level(self) -> int:
        """The level of the largest lambda on the grid."""
        return math.floor((self.ceiling * self.extension_ratio - 1) / self.step + 1e-9)

    @property
    def searches_start_tokens(self) -> bool:
        return len(self.start_tokens) > 1

    def candidate(self, levels: Levels, num_start_tokens: int, attention_factor: float) -> Candidate:
        """The candidate at these levels, one a pair."""
        return Candidate(
            rescale_factors=tuple(round(1 + int(level) * self.step, DECIMALS) for level in levels),
            num_start_tokens=int(num_start_tokens),
            attention_factor=float(attention_factor),
        )

    def levels(self, candidate: Candidate) -> Levels:
        """The nearest levels of a candidate's lambdas, shape (num_pairs,)."""
        return self._nearest(np.array(candidate.rescale_factors))

    def snap(self, factors: RescaleFactors) -> Candidate:
        """The nearest candidate of a closed-form scheme: on the grid, within bounds, monotone.

        n-hat is 0, and the attention factor the nearest choice to the scheme's own.
        """
        levels = np.maximum.accumulate(np.clip(self._nearest(factors.array()[0]), 0, self.highest_level))
        nearest = min(self.attention_factors, key=lambda choice: abs(choice - factors.attention_factor))
        return self.candidate(levels, 0, nearest)

    def contains(self, candidate: Candidate) -> bool:
        """Whether a candidate is on the grid, within bounds, monotone, and of the listed choices."""
        if len(candidate.rescale_factors) != self.num_pairs:
            return False
        levels = self.levels(candidate)
        exact = self.candidate(levels, candidate.num_start_tokens, candidate.attention_factor)
        return (
            exact == candidate
            and bool(levels[0] >= 0 and levels[-1] <= self.highest_level and (np.diff(levels) >= 0).all())
            and candidate.num_start_tokens in self.start_tokens
            and candidate.attention_factor in self.attention_factors
        )

    def to_factors(self, candidate: Candidate) -> RescaleFactors:
        return RescaleFactors.single(
            geometry=self.geometry,
            target_length=self.target_length,
            rescale_factors=candidate.rescale_factors,
            num_start_tokens=candidate.num_start_tokens,
            attention_factor=candidate.attention_factor,
        )

    def as_dict(self) -> dict[str, Any]:
        """Everything that a repetition needs, as JSON values."""
        return {
            "geometry": self.geometry.as_dict(),
            "target_length": self.target_length,
            "step": self.step,
            "ceiling": self.ceiling,
            "start_tokens": list(self.start_tokens),
            "attention_factors": list(self.attention_factors),
        }

    def _nearest(self, rescale_factors: NDArray[np.float64]) -> Levels:
        return np.rint((rescale_factors - 1) / self.step).astype(np.int64)


def attention_choices(setting: str | float, geometry: RopeGeometry, target_length: int) -> tuple[float, ...]:
    """What `--attention-factor` stands for: `1`, another number, `longrope`, or `search`.

    `longrope` is sqrt(1 + ln s / ln L), what engines compute. `search` is a grid of 0.01 from 1 to
    1 + 0.2 ln s, which is twice as far as YaRN goes.

    Raises:
        SettingError: none of these.
    """
    extension_ratio = target_length / geometry.original_length
    if setting == "longrope":
        return (longrope_attention_factor(extension_ratio, geometry.original_length),)
    if setting == "search":
        num_steps = math.ceil(0.2 * math.log(max(1.0, extension_ratio)) / STEP)
        return tuple(round(1 + k * STEP, DECIMALS) for k in range(num_steps + 1))
    try:
        value = float(setting)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise SettingError(
            f"The attention factor is {setting!r}, but must be a number above 0, `longrope` or `search`."
        )
    return (value,)


def start_token_choices(setting: str) -> tuple[int, ...]:
    """What `--start-tokens` stands for: `search` is the paper's list, `none` keeps n-hat 0.

    Raises:
        SettingError: neither of the two.
    """
    if setting not in ("search", "none"):
        raise SettingError(f"The start tokens are {setting!r}, but must be `search` or `none`.")
    return START_TOKENS if setting == "search" else (0,)
