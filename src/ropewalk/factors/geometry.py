"""RopeGeometry: the few numbers of a model that decide how its rotary position embedding turns."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ropewalk.errors import ModelError, shown
from ropewalk.units import LONGEST

# Above what any model has, and below what costs memory or seconds before a model is even looked at.
LARGEST = {"head_dim": 1024, "rotary_dim": 1024, "original_length": LONGEST, "num_layers": 4096}
LARGEST_THETA = 1e15


@dataclass(frozen=True, kw_only=True)
class RopeGeometry:
    """What rescale factors are made for, and must match wherever they are applied.

    Attributes:
        head_dim: size of one attention head, up to 1024.
        rotary_dim: how many of its dimensions are rotated, in pairs; even, at most `head_dim`.
        rope_theta: the base of the frequencies, above 1, up to 1e15.
        original_length: L, the window in tokens that the model was trained on, up to 2**30.
        num_layers: decoder layers, up to 4096.

    Raises:
        ModelError: a number breaks these rules.
    """

    head_dim: int
    rotary_dim: int
    rope_theta: float
    original_length: int
    num_layers: int

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
        if not 1 < self.rope_theta <= LARGEST_THETA:  # NaN breaks this too
            raise ModelError(
                f"`rope_theta` is {shown(self.rope_theta)}, but must be a number above 1, up to "
                f"{LARGEST_THETA:g}."
            )

    @property
    def num_pairs(self) -> int:
        """Rotary frequencies: pair i turns dimensions that belong together, 0 <= i < rotary_dim / 2."""
        return self.rotary_dim // 2

    def inverse_frequencies(self) -> NDArray[np.float64]:
        """theta_i = rope_theta^(-2i / rotary_dim), radians a token, shape (num_pairs,)."""
        # Python's pow, not numpy's: numpy picks one by processor, and the last bit may differ.
        return np.array([float(self.rope_theta) ** (-2 * i / self.rotary_dim) for i in range(self.num_pairs)])

    def turns(self, length: int | None = None) -> NDArray[np.float64]:
        """Full turns of each pair over `length` tokens (the window by default), shape (num_pairs,)."""
        return (length or self.original_length) * self.inverse_frequencies() / (2 * np.pi)

    def pair_of_turns(self, turns: float) -> float:
        """The (fractional) pair that makes so many turns over the window; it need not exist."""
        wavelength = self.original_length / (turns * 2 * math.pi)
        return self.rotary_dim * math.log(wavelength) / (2 * math.log(self.rope_theta))

    @property
    def first_unfinished_pair(self) -> int:
        """The first pair that makes less than a full turn over the window; `num_pairs` if all do."""
        return int((self.turns() >= 1).sum())

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def fingerprint(self) -> str:
        """SHA-256 of the numbers, the same on every machine."""
        canonical = json.dumps({**self.as_dict(), "rope_theta": float(self.rope_theta)}, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def differences(self, other: "RopeGeometry") -> list[str]:
        """Every number that differs, as `name is OURS, not THEIRS`."""
        pairs = [(f.name, getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return [f"{name} is {ours:.10g}, not {theirs:.10g}" for name, ours, theirs in pairs if ours != theirs]


@dataclass(frozen=True, kw_only=True)
class TunedGeometry(RopeGeometry):
    """The window that a model was tuned to, and how it turned there: what a second extension starts from.

    A pair that was slowed down in tuning has made fewer turns over the long window than its plain frequency
    would; which pairs have shown all their angles, and may go on, is told by these.

    Attributes:
        original_length: the tuned length, tokens.
        rescale_factors: lambda_i of the tuning, shape (num_pairs,).
    """

    rescale_factors: tuple[float, ...]

    def inverse_frequencies(self) -> NDArray[np.float64]:
        """theta_i / lambda_i, radians a token, shape (num_pairs,)."""
        slowed: NDArray[np.float64] = super().inverse_frequencies() / np.array(self.rescale_factors)
        return slowed

    def pair_of_turns(self, turns: float) -> float:
        """Between the pairs that there are; beyond them it goes on as plain frequencies do."""
        logs = np.log(np.minimum.accumulate(self.turns()))
        nearest = float(np.interp(-math.log(turns), -logs, np.arange(self.num_pairs)))
        beyond = min(0.0, float(logs[0]) - math.log(turns)) + max(0.0, float(logs[-1]) - math.log(turns))
        return nearest + beyond * self.rotary_dim / (2 * math.log(self.rope_theta))
