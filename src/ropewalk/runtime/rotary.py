"""A factor set as `Model.install` takes it: each row of a batch rotates by the factors for its length."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from ropewalk.factors.factor_set import FactorSet
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

    def __init__(self, factor_set: FactorSet) -> None:
        self.factor_set = factor_set
        self.factors = factor_set.longest
        self.per_layer = any(entry.per_layer for entry in factor_set.entries)
        self._rows: dict[tuple[int, ...], Rows] = {}

    def attach(self, model: Model) -> Iterable[Attachment]:
        """Attach hooks to the decoder, and replace the steps of generation and of saving that need the set.

        Raises:
            ModelError: the decoder has no parameters for mask, positions and cache.
        """
        yield from DecoderHooks(self, model).attach()
        yield from replace_generation(self, model.model)
        yield from replace_saving(self.factor_set, model)

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

    def choose(self, positions: Tensor) -> Rows:
        """The rows that the decoder reads now; outside of it, rows with lengths from their last positions."""
        rows = rows_being_read(self)
        return rows or self.rows_for([int(last) + 1 for last in positions.amax(-1).tolist()])
