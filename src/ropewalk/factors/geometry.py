"""RopeGeometry: the numbers that define a model's rotary position embedding."""

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import ModelError, shown
from ropewalk.units import LONGEST

# Larger than in any model, and small enough to need little memory and time before a model is loaded.
LARGEST = {"head_dim": 1024, "rotary_dim": 1024, "original_length": LONGEST, "num_layers": 4096}
LARGEST_THETA = 1e15
LAYER_TYPE = re.compile(r"\w{1,64}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class RopeGeometry:
    """The rotary that rescale factors are made for; a model must match it to use them.

    Attributes:
        head_dim: size of one attention head, up to 1024.
        rotary_dim: the number of its dimensions that are rotated, in pairs; even, at most `head_dim`.
        rope_theta: the base of the frequencies, above 1, up to 1e15.
        original_length: L, the window in tokens that the model was trained on, up to 2**30.
        num_layers: decoder layers, up to 4096.
        layer_type: the layers that the other numbers describe, as the model's configuration names them
            (`full_attention`); None where all layers share one rotary.
        frequency_dim: the divisor of the exponent of the frequencies, where it is larger than `rotary_dim`:
            `head_dim` in models with proportional RoPE (Gemma 4); even, at most `head_dim`.

    Raises:
        ModelError: a value breaks these rules.
    """

    head_dim: int
    rotary_dim: int
    rope_theta: float
    original_length: int
    num_layers: int
    layer_type: str | None = None
    frequency_dim: int | None = None

    def __post_init__(self) -> None:
        for name, largest in LARGEST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
                raise ModelError(
                    f"`{name}` is {shown(value)}, but must be a whole number from 1 to {largest}."
                )
        if self.rotary_dim % 2 or self.rotary_dim > self.head_dim:
            raise ModelError(
                f"`rotary_dim` is {self.rotary_dim}, but must be even and at most head_dim ({self.head_dim})."
            )
        if not 1 < self.rope_theta <= LARGEST_THETA:  # also refuses NaN
            raise ModelError(
                f"`rope_theta` is {shown(self.rope_theta)}, but must be a number above 1, up to "
                f"{LARGEST_THETA:g}."
            )
        if self.layer_type is not None and not LAYER_TYPE.fullmatch(str(self.layer_type)):
            raise ModelError(
                f"`layer_type` is {shown(self.layer_type)}, but must be a name of up to 64 letters, digits "
                f"and underscores, or None."
            )
        self._check_frequency_dim()

    def _check_frequency_dim(self) -> None:
        value = self.frequency_dim
        if value is None:
            return
        is_even = isinstance(value, int) and not isinstance(value, bool) and value % 2 == 0
        if not is_even or not self.rotary_dim < value <= self.head_dim:
            raise ModelError(
                f"`frequency_dim` is {shown(value)}, but must be even, above rotary_dim ({self.rotary_dim}) "
                f"and at most head_dim ({self.head_dim}), or None."
            )

    @property
    def num_pairs(self) -> int:
        """The number of rotary frequencies, rotary_dim / 2: one per pair of rotated dimensions."""
        return self.rotary_dim // 2

    @property
    def exponent_dim(self) -> int:
        """The divisor of the exponent of the frequencies: `frequency_dim`, or else `rotary_dim`."""
        return self.rotary_dim if self.frequency_dim is None else self.frequency_dim

    @property
    def num_still_pairs(self) -> int:
        """The pairs of a head with proportional RoPE that do not rotate; 0 without a `frequency_dim`."""
        return (self.exponent_dim - self.rotary_dim) // 2

    def inverse_frequencies(self) -> NDArray[np.float64]:
        """theta_i = rope_theta^(-2i / exponent_dim), radians per token, shape (num_pairs,)."""
        # Python's pow, not numpy's, whose last bit may differ between processors.
        divisor = self.exponent_dim
        return np.array([float(self.rope_theta) ** (-2 * i / divisor) for i in range(self.num_pairs)])

    def turns(self, length: int | None = None) -> NDArray[np.float64]:
        """Full turns of each pair over `length` tokens (the window by default), shape (num_pairs,)."""
        return (length or self.original_length) * self.inverse_frequencies() / (2 * np.pi)

    def pair_of_turns(self, turns: float) -> float:
        """The fractional index of the pair that makes `turns` over the window; may be out of range."""
        wavelength = self.original_length / (turns * 2 * math.pi)
        return self.exponent_dim * math.log(wavelength) / (2 * math.log(self.rope_theta))

    @property
    def first_unfinished_pair(self) -> int:
        """The first pair that makes less than a full turn over the window; `num_pairs` if there is none."""
        return int((self.turns() >= 1).sum())

    def as_dict(self) -> dict[str, Any]:
        """Every value that is not None, so that files of models with one rotary stay the same."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def fingerprint(self) -> str:
        """SHA-256 of the values, equal on every machine."""
        canonical = json.dumps({**self.as_dict(), "rope_theta": float(self.rope_theta)}, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def differences(self, other: "RopeGeometry") -> list[str]:
        """Every value that differs, as `name is OURS, not THEIRS`."""
        pairs = [(f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return [
            f"{name} is {_short(ours)}, not {_short(theirs)}"
            for name, ours, theirs in pairs
            if ours != theirs
        ]


@dataclass(frozen=True, kw_only=True)
class TunedGeometry(RopeGeometry):
    """The geometry of a tuned model for a second extension: its longer window, and the factors of the tuning.

    A pair with a factor above 1 makes fewer turns over the long window than its original frequency, so the
    factor decides whether the model was trained on all angles of the pair.

    Attributes:
        original_length: the tuned length, in tokens.
        rescale_factors: lambda_i of the tuning, shape (num_pairs,).
    """

    rescale_factors: tuple[float, ...]

    def inverse_frequencies(self) -> NDArray[np.float64]:
        """theta_i / lambda_i, radians per token, shape (num_pairs,)."""
        slowed: NDArray[np.float64] = super().inverse_frequencies() / np.array(self.rescale_factors)
        return slowed

    def pair_of_turns(self, turns: float) -> float:
        """Interpolated between pairs, and extrapolated beyond them like the original frequencies."""
        logs = np.log(np.minimum.accumulate(self.turns()))
        nearest = float(np.interp(-math.log(turns), -logs, np.arange(self.num_pairs)))
        beyond = min(0.0, float(logs[0]) - math.log(turns)) + max(0.0, float(logs[-1]) - math.log(turns))
        return nearest + beyond * self.exponent_dim / (2 * math.log(self.rope_theta))


def _short(value: object) -> str:
    return f"{value:.10g}" if isinstance(value, (int, float)) else str(value)
