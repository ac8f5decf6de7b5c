"""The rows of a batch: the length, the positions and the factors of each.

Padding is not counted. With a mask of shape (rows, cached and new tokens):

    mask       0 0 0 1 1 | 1        length 3, positions 0 1 | 2
               1 1 1 1 1 | 1        length 6, positions 0 1 2 3 4 | 5
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ropewalk.errors import ModelError
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.rope.frequencies import StackedFactors


@dataclass(frozen=True, eq=False)
class Rows:
    """The factors that each row of a batch rotates by.

    Attributes:
        factors: one set per row.
    """

    factors: tuple[RescaleFactors, ...]
    _stacked: dict[torch.device, StackedFactors] = field(default_factory=dict, repr=False)

    @property
    def is_uniform(self) -> bool:
        first = self.factors[0]
        return all(factors is first or factors == first for factors in self.factors)

    @property
    def distinct(self) -> tuple[RescaleFactors, ...]:
        """One set per row; a single one if all are equal."""
        return self.factors[:1] if self.is_uniform else self.factors

    def for_batch(self, num_rows: int) -> "Rows":
        """The same factors for a batch of `num_rows`.

        Raises:
            ModelError: the factors of the rows differ, and there are not `num_rows` of them.
        """
        if len(self.factors) == num_rows:
            return self
        if not self.is_uniform:
            raise ModelError(
                f"The batch has {num_rows} rows, but factors were chosen for {len(self.factors)} rows, and "
                f"they differ: read the same rows, or give all rows one length with ropewalk.pinned."
            )
        return Rows(self.factors[:1] * num_rows)

    def part(self, indices: list[int]) -> "Rows":
        """Some of the rows, in this order."""
        return Rows(tuple(self.factors[index] for index in indices))

    def changed(self, other: "Rows") -> list[int]:
        """The indices of rows whose factors differ in `other`."""
        pairs = zip(self.factors, other.factors, strict=True)
        return [index for index, (a, b) in enumerate(pairs) if a is not b and a != b]

    def cos_sin(self, positions: Tensor, layer_index: int) -> tuple[Tensor, Tensor]:
        """cos and sin, float64, for positions of shape (rows or 1, tokens), of `near` of near-far factors."""
        return self.stacked(positions.device).cos_sin(positions, layer_index)

    def stacked(self, device: torch.device) -> StackedFactors:
        """The factors as tensors on a device; a single row if all are equal."""
        found = self._stacked.get(device)
        if found is None:
            # Not in inference mode, because its tensors can't be used in training later.
            with torch.inference_mode(False):
                rows = [factors.near for factors in self.distinct]
                found = self._stacked[device] = StackedFactors.of(rows, device)
        return found


def own_lengths(
    mask: Tensor | None, position_ids: Tensor | None, *, num_rows: int, num_tokens: int, num_cached: int
) -> list[int]:
    """The number of tokens of each row after `num_tokens` more, without padding.

    Args:
        mask: shape (rows, cached and new tokens), 0 at padding; ignored if it has another shape.
        position_ids: shape (rows or 1, new tokens); without a mask, a row ends at its last position.
    """
    if is_row_mask(mask, num_cached + num_tokens):
        assert mask is not None
        lengths = [max(1, int(length)) for length in mask.sum(-1).tolist()]
    elif position_ids is not None and position_ids.dim() == 2:
        lengths = [int(last) + 1 for last in position_ids.amax(-1).tolist()]
    else:
        lengths = [num_cached + num_tokens]
    return lengths * num_rows if len(lengths) == 1 else lengths


def own_positions(mask: Tensor, num_tokens: int) -> Tensor:
    """Positions of the last `num_tokens`, from 0 at each row's first token; padding before it has 0."""
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
    return positions[:, -num_tokens:]


def is_row_mask(mask: object, num_tokens: int) -> bool:
    """Whether this is a padding mask of shape (rows, tokens), and not an attention mask."""
    return isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[1] == num_tokens
