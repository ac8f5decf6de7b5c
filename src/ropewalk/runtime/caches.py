"""The factors that a key-value cache was filled with, stored as an attribute of the cache.

Keys are rotated before they are cached, so each row of a cache is right for one set of factors. The attribute
stays with the cache when `generate` returns it, when the caller keeps it for the next turn, and in copies.
"""

import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.far_cache import FarKeysLayer
from ropewalk.runtime.rows import Rows

NOTE = "_ropewalk_note"
# Layers whose rows can be replaced one by one: two tensors, their first dimension the rows.
LAYERS_BY_ROW = (DynamicLayer, DynamicSlidingWindowLayer, FarKeysLayer)


@dataclass(frozen=True)
class Note:
    """The factors that a cache was filled with.

    Attributes:
        factors: one set per row.
        keys: the tensor of keys after the last forward; a different tensor means that rows were moved since
            then.
    """

    factors: tuple[RescaleFactors, ...]
    keys: "weakref.ref[Tensor] | None"


def num_cached(cache: Any) -> int:
    """The number of tokens in a cache, with padding; 0 without a cache."""
    return 0 if cache is None else int(cache.get_seq_length())


def note(cache: Any, rows: Rows) -> None:
    """Store on a cache the factors that it was filled with."""
    keys = _keys(cache)
    setattr(cache, NOTE, Note(rows.factors, None if keys is None else weakref.ref(keys)))


def noted(cache: Any) -> Rows | None:
    """The factors that a cache was filled with; None if that is unknown.

    Rows with equal factors may be selected, repeated, reordered and cropped. After that, which row has which
    factors is unknown if they differ.
    """
    found: Note | None = getattr(cache, NOTE, None)
    if found is None:
        return None
    rows = Rows(found.factors)
    if rows.is_uniform:
        return rows
    return rows if found.keys is not None and found.keys() is _keys(cache) else None


def is_filled_under(cache: Any, rows: Rows) -> bool:
    """Whether a cache was filled with these factors; its rows must not have moved outside this package."""
    found: Note | None = getattr(cache, NOTE, None)
    return found is not None and found.factors == rows.factors


def empty_like(cache: Any, config: Any) -> Any:
    """An empty cache whose rows `replace_rows` can copy into this one, or None if it can't."""
    if type(cache) is not DynamicCache or cache.offloading:
        return None
    fresh = DynamicCache(config=config.get_text_config(decoder=True))
    for index, (layer, _) in enumerate(zip(cache.layers, fresh.layers, strict=False)):
        if isinstance(layer, FarKeysLayer):
            fresh.layers[index] = layer.empty()
    if [type(layer) for layer in fresh.layers] != [type(layer) for layer in cache.layers]:
        return None
    is_by_row = all(
        type(layer) in LAYERS_BY_ROW and layer.keys is not None and not getattr(layer, "record_past", False)
        for layer in cache.layers
    )
    return fresh if is_by_row else None


def replace_rows(cache: Any, indices: list[int], rows: Any) -> None:
    """Replace the rows at `indices` by those of another cache with as many tokens.

    If these are the first with far keys, the other rows have no far part.
    """
    for number, (layer, other) in enumerate(zip(cache.layers, rows.layers, strict=True)):
        if isinstance(other, FarKeysLayer) and not isinstance(layer, FarKeysLayer):
            layer = cache.layers[number] = other.of_plain(layer)
        index = torch.tensor(indices, device=layer.keys.device)
        layer.keys = layer.keys.index_copy(0, index, other.keys)
        layer.values = layer.values.index_copy(0, index, other.values)


def _keys(cache: Any) -> Tensor | None:
    """The keys of the first layer that has keys."""
    for layer in getattr(cache, "layers", ()):
        keys = getattr(layer, "keys", None)
        if isinstance(keys, Tensor):
            return keys
    return None
