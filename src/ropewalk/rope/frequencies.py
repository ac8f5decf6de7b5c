"""The rotation angle of each position and pair. No other module has this formula.

    angle(n, i) = n * theta_i                 for n <  num_start_tokens
                  n * theta_i / lambda_i      for n >= num_start_tokens

This is LongRoPE's Eq. 3 (arXiv 2402.13753). Near-far factors rotate by the angles of `near`. For distances
of `near_window` W tokens or more, query and key are rotated once more (`far_angles`), so that the score of
the query at m and the key at n has the angle

    (m - n - W) * theta_i / lambda_i + W * theta_i

which is that of `near` at the distance W.

Angles are float64: at position 4,194,304 a float32 angle has an error of up to 0.13 rad, a float64 angle one
below 1e-8. cos and sin are cast to the model's dtype last.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.factors.rescale_factors import RescaleFactors


def angles(factors: RescaleFactors, positions: Tensor, layer_index: int = 0) -> Tensor:
    """Returns the angle of each position and pair.

    Args:
        factors: plain ones; of near-far factors, `near` or `far`.
        positions: integer token positions from 0, of any shape.
        layer_index: the row to use if factors are per layer.

    Returns:
        Radians, float64, shape (*positions.shape, num_pairs), on the device of `positions`.
    """
    _assert_plain(factors)
    inverse, rescale_factors = _by_pair(factors, layer_index, positions.device)
    return rescaled_angles(positions, inverse, rescale_factors, factors.num_start_tokens)


def far_angles(factors: RescaleFactors, positions: Tensor, layer_index: int = 0) -> Tensor:
    """Returns the angles of the further rotation of far keys, which follows that by `factors.near`.

    These are n * (theta_i / lambda_i - theta_i) for the key at n. The query at m is rotated as the key at
    m - W is.

    Args:
        factors: near-far factors, or their plain `far`.
        positions, layer_index: as in `angles`; positions before 0 are allowed.

    Returns:
        As `angles`.
    """
    return rescaled_far_angles(positions, *_by_pair(factors, layer_index, positions.device))


def rescaled_far_angles(positions: Tensor, inverse_frequencies: Tensor, rescale_factors: Tensor) -> Tensor:
    """Returns `far_angles` for tensors of factors; arguments as for `rescaled_angles`."""
    per_token = inverse_frequencies / rescale_factors - inverse_frequencies
    return positions.to(torch.float64).unsqueeze(-1) * per_token


def _by_pair(factors: RescaleFactors, layer_index: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """theta_i and lambda_i of a layer, float64, each of shape (num_pairs,)."""
    row = factors.rescale_factors[layer_index if factors.per_layer else 0]
    inverse = torch.from_numpy(factors.geometry.inverse_frequencies()).to(device)
    return inverse, torch.tensor(row, dtype=torch.float64, device=device)


def _assert_plain(factors: RescaleFactors) -> None:
    """A caller that knows one rotation only would ignore the near window."""
    assert not factors.is_near_far, "near-far factors have two rotations: give `near` or `far`"


def rescaled_angles(
    positions: Tensor, inverse_frequencies: Tensor, rescale_factors: Tensor, num_start_tokens: int | Tensor
) -> Tensor:
    """Returns the angles for tensors of factors, differentiable in `rescale_factors`.

    Args:
        positions: as in `angles`.
        inverse_frequencies: theta_i in radians per token, float64, shape (num_pairs,).
        rescale_factors: lambda_i, float64, broadcast to (*positions.shape, num_pairs).
        num_start_tokens: n-hat; a tensor is broadcast likewise.

    Returns:
        As `angles`.
    """
    unscaled = positions.to(torch.float64).unsqueeze(-1) * inverse_frequencies
    rescaled = unscaled / rescale_factors
    if isinstance(num_start_tokens, int) and num_start_tokens == 0:
        return rescaled
    return torch.where(positions.unsqueeze(-1) < num_start_tokens, unscaled, rescaled)


def cos_sin(factors: RescaleFactors, positions: Tensor, layer_index: int = 0) -> tuple[Tensor, Tensor]:
    """Returns cos and sin of `angles`, each times the attention factor: float64, the shape of `angles`."""
    radians = angles(factors, positions, layer_index)
    return radians.cos() * factors.attention_factor, radians.sin() * factors.attention_factor


@dataclass(frozen=True, eq=False)
class StackedFactors:
    """Factors of one geometry, one per row of a batch. All tensors are float64 but `num_start_tokens`.

    Attributes:
        inverse_frequencies: radians per token, shape (num_pairs,).
        rescale_factors: shape (num_rows, num_layers or 1, num_pairs).
        num_start_tokens: tokens, int64, shape (num_rows, 1, 1); or 0 if it is 0 in every row.
        attention_factors: shape (num_rows, 1, 1).
    """

    inverse_frequencies: Tensor
    rescale_factors: Tensor
    num_start_tokens: Tensor | int
    attention_factors: Tensor

    @classmethod
    def of(cls, rows: Sequence[RescaleFactors], device: torch.device) -> "StackedFactors":
        """Stacks plain factors. If some are per layer, the others are repeated for each layer."""
        for factors in rows:
            _assert_plain(factors)
        arrays = [torch.from_numpy(factors.array()) for factors in rows]
        num_layers = max(len(array) for array in arrays)
        starts = [factors.num_start_tokens for factors in rows]
        attention = [factors.attention_factor for factors in rows]
        return cls(
            inverse_frequencies=torch.from_numpy(rows[0].geometry.inverse_frequencies()).to(device),
            rescale_factors=torch.stack([array.expand(num_layers, -1) for array in arrays]).to(device),
            num_start_tokens=torch.tensor(starts, device=device).view(-1, 1, 1) if any(starts) else 0,
            attention_factors=torch.tensor(attention, dtype=torch.float64, device=device).view(-1, 1, 1),
        )

    def cos_sin(self, positions: Tensor, layer_index: int = 0) -> tuple[Tensor, Tensor]:
        """Returns the same bits as `cos_sin` for each row.

        Args:
            positions: shape (num_rows or 1, tokens).

        Returns:
            cos and sin, float64, each of shape (num_rows, tokens, num_pairs).
        """
        rescale_factors = self.rescale_factors[:, layer_index if self.rescale_factors.shape[1] > 1 else 0]
        radians = rescaled_angles(
            positions, self.inverse_frequencies, rescale_factors.unsqueeze(1), self.num_start_tokens
        )
        return radians.cos() * self.attention_factors, radians.sin() * self.attention_factors
