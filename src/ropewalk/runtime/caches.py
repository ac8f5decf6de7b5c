"""Which factors a key-value cache was filled under, noted on the cache itself.

Keys are cached after they were turned, so a cache holds good for one choice of factors a row. The note stays
with the cache when it is handed back by `generate`, kept for the next turn of a conversation, or copied.
"""

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.runtime.rows import Rows

NOTE = "_ropewalk_note"
# Layers whose rows can be replaced one by one: two tensors, their first dimension the rows.
LAYERS_BY_ROW = (DynamicLayer, DynamicSlidingWindowLayer)


@dataclass(frozen=True)
class Note:
    """What a cache was filled under, last.

    Attributes:
        factors: one a row.
        keys: the tensor of keys that was left then; another one means that somebody moved rows since.
    """

    factors: tuple[RescaleFactors, ...]
    keys: "weakref.ref[Tensor] | None"


def num_cached(cache: Any) -> int:
    """Tokens that a cache holds, padding included; 0 without a cache."""
    return 0 if cache is None else int(cache.get_seq_length())


def note(cache: Any, rows: Rows) -> None:
    """Remember what a cache was filled under."""
    keys = _keys(cache)
    setattr(cache, NOTE, Note(rows.factors, None if keys is None else weakref.ref(keys)))


def noted(cache: Any) -> Rows | None:
    """What a filled cache was filled under; None where nobody can say any more.

    Rows that are all alike may be selected, repeated, reordered and cropped; of rows that differ it would be
    forgotten which is which.
    """
    found: Note | None = getattr(cache, NOTE, None)
    if found is None:
        return None
    rows = Rows(found.factors)
    if rows.is_uniform:
        return rows
    return rows if found.keys is not None and found.keys() is _keys(cache) else None


def is_filled_under(cache: Any, rows: Rows) -> bool:
    """Whether the note says so. Of rows that differ, whoever moves them here keeps them where they belong."""
    found: Note | None = getattr(cache, NOTE, None)
    return found is not None and found.factors == rows.factors


def empty_like(cache: Any, config: Any) -> Any:
    """An empty cache whose rows `replace_rows` can put into this one, or None where that can't be."""
    if type(cache) is not DynamicCache or cache.offloading:
        return None
    fresh = DynamicCache(config=config.get_text_config(decoder=True))
    if [type(layer) for layer in fresh.layers] != [type(layer) for layer in cache.layers]:
        return None
    is_by_row = all(
        type(layer) in LAYERS_BY_ROW and layer.keys is not None and not getattr(layer, "record_past", False)
        for layer in cache.layers
    )
    return fresh if is_by_row else None


def replace_rows(cache: Any, indices: list[int], rows: Any) -> None:
    """Put the rows of another cache, of as many tokens, in the place of those at `indices`."""
    for layer, other in zip(cache.layers, rows.layers, strict=True):
        index = torch.tensor(indices, device=layer.keys.device)
        layer.keys = layer.keys.index_copy(0, index, other.keys)
        layer.values = layer.values.index_copy(0, index, other.values)


def _keys(cache: Any) -> Tensor | None:
    """The keys of the first layer that has some."""
    for layer in getattr(cache, "layers", ()):
        keys = getattr(layer, "keys", None)
        if isinstance(keys, Tensor):
            return keys
    return None
