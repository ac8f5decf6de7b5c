"""The rotary that follows a factor set: each row of a batch by its own length.

It stands in a model as factors do that are installed (`models.rotary`), and comes out again as they do. What
more it replaces is what it must see: the decoder's forward (mask, positions, cache) and the generation loop.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from ropewalk.factors.factor_set import FactorSet
from ropewalk.models.rope_config import RopeDescription
from ropewalk.models.rotary import InstalledRotary, Settings, Table, float64_device
from ropewalk.models.rotary_layout import RotaryLayout
from ropewalk.runtime.decoder import DecoderForward, find_decoder
from ropewalk.runtime.generation import replace_generation
from ropewalk.runtime.rows import Rows
from ropewalk.runtime.saving import replace_saving

MOST_REMEMBERED = 64


class RuntimeRotary(InstalledRotary):
    """Stands in for the forward of a model's rotary.

    Attributes:
        factor_set: what it follows; `factors` are those of its longest entry.
    """

    def __init__(
        self,
        factor_set: FactorSet,
        rotary: nn.Module,
        layout: RotaryLayout,
        description: RopeDescription,
        name: str,
        settings: Settings,
    ) -> None:
        self.factor_set = factor_set
        super().__init__(rotary, layout, description, name, factor_set.longest, settings)
        self._rows: dict[tuple[int, ...], Rows] = {}

    @property
    def per_layer(self) -> bool:
        return any(entry.per_layer for entry in self.factor_set.entries)

    def takes(self, settings: Settings) -> bool:
        return False

    def put(self, model: nn.Module) -> None:
        super().put(model)
        decoder = find_decoder(model, self.rotary, self.name)
        self._replacements.replace(decoder, "forward", DecoderForward(self, decoder))
        replace_generation(self, model, self._replacements)
        replace_saving(self.factor_set, model, self._replacements)

    def rows_for(self, lengths: Sequence[int]) -> Rows:
        """What rows of these lengths turn by; the same object for the same choice.

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

    @contextmanager
    def reading(self, rows: Rows) -> Iterator[None]:
        """The next forward in this thread is of these rows."""
        token = _reading.set((self, rows))
        try:
            yield
        finally:
            _reading.reset(token)

    def __call__(self, x: Tensor, position_ids: Tensor) -> Any:
        """As the original: hidden states, and positions of shape (rows or 1, tokens), or so for each axis."""
        position_ids = self.layout.one_position(position_ids, self.name)
        reader, rows = _reading.get()
        if reader is not self or rows is None:  # asked for by somebody else than the decoder
            rows = self.rows_for([int(last) + 1 for last in position_ids.amax(-1).tolist()])
        like = x.new_empty(0)
        if not self.per_layer:
            return self._fill_rows(rows, position_ids, like, layer_index=0)
        with torch.inference_mode(False):
            positions = position_ids.clone()
            table = RowTable(rows, positions, like, self._fill_rows(rows, positions, like, layer_index=0))
        self._tables[table.leaves[0]] = table
        return table.outputs

    def _refill(self, table: Table, layer_index: int) -> Any:
        assert isinstance(table, RowTable)
        return self._fill_rows(table.rows, table.positions, table.like, layer_index)

    def _fill_rows(self, rows: Rows, positions: Tensor, like: Tensor, layer_index: int) -> Any:
        device = float64_device(positions.device)
        stacked = rows.stacked(device)
        return self.layout.fill(*stacked.cos_sin(positions.to(device), layer_index), like=like)


class RowTable(Table):
    """A table, with the rows that it was made for."""

    def __init__(self, rows: Rows, positions: Tensor, like: Tensor, outputs: Any) -> None:
        super().__init__(positions, like, outputs)
        self.rows = rows


_reading: ContextVar[tuple[RuntimeRotary | None, Rows | None]] = ContextVar(
    "ropewalk_reading", default=(None, None)
)
