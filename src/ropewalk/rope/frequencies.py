"""Geometry and factors to an angle for each (position, pair): the only formula.

    angle(n, i) = n * theta_i                 for n <  num_start_tokens
                  n * theta_i / lambda_i      for n >= num_start_tokens       (LongRoPE, Eq. 3)

Angles are float64: at position 4,194,304 a float32 angle is off by up to 0.13 rad, a float64 one by less
than 1e-8, so that cos and sin can be cast last, to whatever the model computes in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.factors.rescale_factors import RescaleFactors


def angles(factors: RescaleFactors, positions: Tensor, layer_index: int = 0) -> Tensor:
    """Radians, float64, shape (*positions.shape, num_pairs), on the device of `positions`.

    Args:
        positions: whole token positions from 0, any shape.
        layer_index: which row to use where factors are per layer.
    """
    row = factors.rescale_factors[layer_index if factors.per_layer else 0]
    rescale_factors = torch.tensor(row, dtype=torch.float64, device=positions.device)
    inverse = torch.from_numpy(factors.geometry.inverse_frequencies()).to(positions.device)
    return rescaled_angles(positions, inverse, rescale_factors, factors.num_start_tokens)


def rescaled_angles(
    positions: Tensor, inverse_frequencies: Tensor, rescale_factors: Tensor, num_start_tokens: int | Tensor
) -> Tensor:
    """The formula on tensors, differentiable in `rescale_factors`; shapes and units as in `angles`.

    `rescale_factors` and a tensor of `num_start_tokens` are broadcast against (*positions.shape, num_pairs).
    """
    turned = positions.to(torch.float64).unsqueeze(-1) * inverse_frequencies
    rescaled = turned / rescale_factors
    if isinstance(num_start_tokens, int) and num_start_tokens == 0:
        return rescaled
    return torch.where(positions.unsqueeze(-1) < num_start_tokens, turned, rescaled)


def cos_sin(factors: RescaleFactors, positions: Tensor, layer_index: int = 0) -> tuple[Tensor, Tensor]:
    """cos and sin of `angles`, each times the attention factor, float64."""
    turned = angles(factors, positions, layer_index)
    return turned.cos() * factors.attention_factor, turned.sin() * factors.attention_factor


@dataclass(frozen=True, eq=False)
class StackedFactors:
    """Factors of one geometry side by side, so that each row of a batch turns by its own.

    Attributes:
        inverse_frequencies: (num_pairs,), as all tensors here float64.
        rescale_factors: (num_rows, num_layers or 1, num_pairs).
        num_start_tokens: (num_rows, 1, 1), or 0 where every row has 0.
        attention_factors: (num_rows, 1, 1).
    """

    inverse_frequencies: Tensor
    rescale_factors: Tensor
    num_start_tokens: Tensor | int
    attention_factors: Tensor

    @classmethod
    def of(cls, rows: Sequence[RescaleFactors], device: torch.device) -> "StackedFactors":
        """One row for each of `rows`; where some are per layer, the others are the same in all layers."""
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
        """As `cos_sin`, the same bits, for positions of shape (num_rows or 1, tokens)."""
        rescale_factors = self.rescale_factors[:, layer_index if self.rescale_factors.shape[1] > 1 else 0]
        turned = rescaled_angles(
            positions, self.inverse_frequencies, rescale_factors.unsqueeze(1), self.num_start_tokens
        )
        return turned.cos() * self.attention_factors, turned.sin() * self.attention_factors
