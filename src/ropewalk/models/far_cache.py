"""KV caches whose layers store keys twice: as near queries and as far queries read them.

Both are stored side by side in one tensor of twice the width, so that everything that moves or cuts the rows
and tokens of a cache (beams, cropping, offloading) does so with both. Rows without a far part store their
keys twice.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

# (index of the layer, keys after the near rotation, index of their first token) -> keys for far queries.
RotateFurther = Callable[[int, Tensor, int], Tensor]


class FarKeysLayer(DynamicLayer):  # type: ignore[misc]
    """Stores and returns keys of shape (rows, heads, tokens, 2 * dim): near and far."""

    def __init__(self, rotate: RotateFurther, index: int) -> None:
        super().__init__()
        self._rotate = rotate
        self._index = index

    def update(self, keys: Tensor, values: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        far = self._rotate(self._index, keys, self.get_seq_length())
        return super().update(torch.cat((keys, far), -1), values, *args, **kwargs)  # type: ignore[no-any-return]

    def empty(self) -> "FarKeysLayer":
        """An empty layer like this one."""
        return FarKeysLayer(self._rotate, self._index)

    def of_plain(self, layer: DynamicLayer) -> "FarKeysLayer":
        """A layer like this one, with what another layer stores of rows without a far part."""
        found = self.empty()
        found.lazy_initialization(layer.keys, layer.values)
        found.keys, found.values = torch.cat((layer.keys, layer.keys), -1), layer.values
        return found


def store_far_keys(cache: Any, rotate: RotateFurther, rotates: tuple[bool, ...], length: int) -> None:
    """Replace layers of a cache that have stored nothing yet, if they store all tokens and rotate keys.

    Filled layers stay; attention rotates their keys when it reads them.

    Args:
        length: the most tokens of a row.
    """
    if not isinstance(cache, DynamicCache):
        return
    if cache.layer_class_to_replicate is DynamicLayer and not cache.layers:
        cache.layer_class_to_replicate = None
        cache.layers = [DynamicLayer() for _ in rotates]
    for index, (layer, layer_rotates) in enumerate(zip(cache.layers, rotates, strict=False)):
        if layer_rotates and not layer.is_initialized and _stores_all(layer, length):
            cache.layers[index] = FarKeysLayer(rotate, index)


def _stores_all(layer: Any, length: int) -> bool:
    """Whether a layer stores all tokens of a row."""
    is_wide = type(layer) is DynamicSlidingWindowLayer and layer.sliding_window >= length
    return type(layer) is DynamicLayer or is_wide
