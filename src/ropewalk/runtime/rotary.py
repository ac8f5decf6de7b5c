"""A factor set as `Model.install` takes it: each row of a batch rotates by the factors for its length."""

import itertools
from collections.abc import Iterable, Sequence

from torch import Tensor

from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.far_attention import NO_PART, FarAttention
from ropewalk.models.far_part import FarPart
from ropewalk.models.key_rotation import KeyRotation
from ropewalk.models.model import Model
from ropewalk.models.rotary import Attachment
from ropewalk.runtime.decoder import DecoderHooks, rows_being_read
from ropewalk.runtime.generation import replace_generation
from ropewalk.runtime.rows import Rows
from ropewalk.runtime.saving import replace_saving

MOST_REMEMBERED = 64


class FactorsByLength:
    """An `Installable` that chooses factors by length.

    Attributes:
        factor_set: all entries.
        factors: the longest entry.
    """

    def __init__(self, factor_set: FactorSet, rotation: KeyRotation | None = None) -> None:
        """`rotation` is needed if the set has near-far factors."""
        self.factor_set = factor_set
        self.factors = factor_set.longest
        self.per_layer = any(entry.near.per_layer for entry in factor_set.entries)
        self._rows: dict[tuple[int, ...], Rows] = {}
        self._near_far = [entry for entry in factor_set.entries if entry.is_near_far]
        self._far_attention = self._far_attention_of(rotation) if self._near_far else None
        self._base: RescaleFactors | None = None  # by which the model's own rotary rotates

    @classmethod
    def of(cls, factor_set: FactorSet, model: Model) -> "FactorsByLength":
        """A factor set for a model.

        Raises:
            ModelError: the set has near-far factors, and the model can't read with them.
        """
        return cls(factor_set, model.far_rotation if factor_set.has_near_far else None)

    def attach(self, model: Model) -> Iterable[Attachment]:
        """Attach hooks to the decoder, and replace the steps of generation and of saving that need the set.

        Raises:
            ModelError: the decoder has no parameters for mask, positions and cache; or as `FarAttention`.
        """
        yield from DecoderHooks(self, model).attach()
        if self._far_attention is not None:
            yield from self._far_attention.attach(model)
            self._base = self._base_of(model)
        yield from replace_generation(self, model.model)
        yield from replace_saving(self.factor_set, model)

    def _far_attention_of(self, rotation: KeyRotation | None) -> FarAttention:
        assert rotation is not None, "near-far factors need it"
        parts = [FarPart.of(entry, rotation) for entry in self._near_far]
        return FarAttention(parts, length=self._near_far[-1].target_length, choose=self._far_parts)

    def _base_of(self, model: Model) -> RescaleFactors | None:
        """The entry that changes nothing, if the model has no scaling of its own."""
        if model.description.own is not None or model.description.own_problem is not None:
            return None
        return next((entry for entry in self.factor_set.entries if _changes_nothing(entry)), None)

    def _far_parts(self) -> list[int]:
        """Which far part each row has that the decoder reads now."""
        rows = rows_being_read(self)
        assert rows is not None, "`DecoderHooks` run before"
        return [
            self._near_far.index(factors) if factors.is_near_far else NO_PART for factors in rows.distinct
        ]

    def rows_for(self, lengths: Sequence[int]) -> Rows:
        """The factors for rows of these lengths; equal choices return the same object.

        Raises:
            FactorsError: a row is longer than the longest entry.
        """
        factors = tuple(self.factor_set.for_length(length) for length in lengths)
        key = tuple(entry.target_length for entry in factors)
        rows = self._rows.get(key)
        if rows is None:
            if len(self._rows) >= MOST_REMEMBERED:
                self._rows.clear()
            rows = self._rows[key] = Rows(factors)
        return rows

    def choose(self, positions: Tensor) -> Rows | None:
        """The rows that the decoder reads now; outside of it, rows with lengths from their last positions.

        None if the model's own rotary is right for all rows; its angles are less exact, but those of the
        training. Sets without near-far factors do not use it.
        """
        rows = rows_being_read(self)
        rows = rows or self.rows_for([int(last) + 1 for last in positions.amax(-1).tolist()])
        return None if rows.is_uniform and rows.factors[0] == self._base else rows


def _changes_nothing(factors: RescaleFactors) -> bool:
    values = {factors.attention_factor, *itertools.chain(*factors.rescale_factors)}
    return not factors.is_near_far and values == {1.0}
