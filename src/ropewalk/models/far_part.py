"""The far part of near-far factors: how it rotates queries and keys, and attention with it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.functional import pad

from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.key_rotation import KeyRotation
from ropewalk.models.rotary import float64_device
from ropewalk.models.two_part_attention import two_part_attention
from ropewalk.rope.frequencies import far_angles

# From positions to cos and sin of each pair, shape (num_tokens, num_pairs).
TableOf = Callable[[Tensor], tuple[Tensor, Tensor]]
TABLE_STEP = 4096  # the table of the far rotation grows by this many tokens


class FarPart:
    """The rotation of far keys in a model.

    Only differences of angles matter, so tokens are counted from the first one in the cache, padding
    included.

    Attributes:
        near, far: plain factors of both parts.
        window: W, tokens; 0 if all keys are far.
        rotation: how the model rotates keys.
    """

    def __init__(self, near: RescaleFactors, far: RescaleFactors, window: int, rotation: KeyRotation) -> None:
        self.near = near
        self.far = far
        self.window = window
        self.rotation = rotation
        self._tables: dict[tuple[int, torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}
        self._trace: TableOf | None = None
        self._traced: tuple[Tensor, Tensor] | None = None

    @classmethod
    def of(cls, factors: RescaleFactors, rotation: KeyRotation) -> "FarPart":
        """The far part of near-far factors."""
        return cls(factors.near, factors.far, factors.near_window, rotation)

    @contextmanager
    def traced(self, table_of: TableOf) -> Iterator[None]:
        """Inside the `with`, gradients flow to the table of the far rotation.

        Args:
            table_of: makes cos and sin of each pair for positions, as leaves of the graph.
        """
        self._trace = table_of
        try:
            yield
        finally:
            self._trace = self._traced = None

    def begin(self, num_tokens: int, device: torch.device) -> None:
        """Make the traced table for a text, before its decoder reads; does nothing outside of `traced`."""
        if self._trace is not None:
            self._traced = self.rotation.columns(*self._trace(torch.arange(num_tokens, device=device)))

    def attend(
        self, layer_index: int, query: Tensor, key: Tensor, value: Tensor, *, first: int, scale: float
    ) -> Tensor:
        """Attention of one layer to queries and keys after the near rotation.

        Args:
            query, key, value: (rows, heads, tokens, dim), without padding; a cache may store near and far
                keys side by side.
            first: the index in the cache of the first key.
            scale: of the logits.

        Returns:
            (rows, heads, queries, dim).
        """
        num_keys, dim = key.shape[2], query.shape[3]
        if num_keys <= self.window or not self.rotation.layers[layer_index]:
            return attend_near(query, key, value, scale=scale)
        near_key, *stored = torch.split(key, dim, -1)
        far_key = stored[0] if stored else self.rotate(layer_index, near_key, first)
        far_query = self._far_queries(layer_index, query, num_keys, first)
        return two_part_attention((query, near_key), (far_query, far_key), value, self.window, scale)

    def rotate(self, layer_index: int, states: Tensor, first: int) -> Tensor:
        """Queries or keys of consecutive tokens, rotated once more as keys from the index `first` on are."""
        last = first + states.shape[2]
        exact = torch.promote_types(states.dtype, torch.float32)
        cos, sin = (part[first:last] for part in self._table(layer_index, last, states.device, exact))
        return self.rotation.rotate((states, states), cos, sin)[0].to(states.dtype)

    def _far_queries(self, layer_index: int, query: Tensor, num_keys: int, first: int) -> Tensor:
        """The query at m is rotated as the key at m - W is; queries without a far key become zero."""
        before = num_keys - query.shape[2]
        num_without = max(0, self.window - before)
        start = first + before + num_without - self.window
        return pad(self.rotate(layer_index, query[:, :, num_without:], start), (0, 0, num_without, 0))

    def _table(
        self, layer_index: int, num_tokens: int, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """cos and sin for each key dimension, of at least `num_tokens` tokens."""
        if self._traced is not None:
            return self._traced
        place = layer_index if self.far.per_layer else 0, device, dtype
        table = self._tables.get(place)
        if table is None or len(table[0]) < num_tokens:
            with torch.inference_mode(False):  # its tensors could not be used in training later
                size = -(-num_tokens // TABLE_STEP) * TABLE_STEP
                angles = far_angles(self.far, torch.arange(size, device=float64_device(device)), layer_index)
                ratio = self.far.attention_factor / self.near.attention_factor
                cos, sin = self.rotation.columns(angles.cos() * ratio, angles.sin() * ratio)
                table = self._tables[place] = cos.to(device, dtype), sin.to(device, dtype)
        return table


def attend_near(query: Tensor, key: Tensor, value: Tensor, *, scale: float) -> Tensor:
    """As `FarPart.attend`, with all keys near."""
    near = query, key[..., : query.shape[3]]
    return two_part_attention(near, near, value, key.shape[2], scale)
