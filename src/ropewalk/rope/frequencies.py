"""Geometry and factors to an angle for each (position, pair): the only formula.

    angle(n, i) = n * theta_i                 for n <  num_start_tokens
                  n * theta_i / lambda_i      for n >= num_start_tokens       (LongRoPE, Eq. 3)

Angles are float64: at position 4,194,304 a float32 angle is off by up to 0.13 rad, a float64 one by less
than 1e-8, so that cos and sin can be cast last, to whatever the model computes in.
"""

import torch
from torch import Tensor

from ropewalk.factors import RescaleFactors


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
    positions: Tensor, inverse_frequencies: Tensor, rescale_factors: Tensor, num_start_tokens: int
) -> Tensor:
    """The formula on tensors, differentiable in `rescale_factors`; shapes and units as in `angles`."""
    turned = positions.to(torch.float64).unsqueeze(-1) * inverse_frequencies
    rescaled = turned / rescale_factors
    if num_start_tokens == 0:
        return rescaled
    return torch.where(positions.unsqueeze(-1) < num_start_tokens, turned, rescaled)


def cos_sin(factors: RescaleFactors, positions: Tensor, layer_index: int = 0) -> tuple[Tensor, Tensor]:
    """cos and sin of `angles`, each times the attention factor, float64."""
    turned = angles(factors, positions, layer_index)
    return turned.cos() * factors.attention_factor, turned.sin() * factors.attention_factor
