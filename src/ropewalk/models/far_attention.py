"""The attention implementation `near_far` of transformers: rows of a batch may have far parts, or none.

The model's own rotary rotates queries and keys by the near factors of each row, and caches store keys so.
Layers that see all tokens then attend with each row's far part (`far_part`). Layers with a sliding window
read with the near rotation alone: all their distances are within the trained range. A batch without far parts
is read as `sdpa` reads it: the same masks and the same kernel calls, so the same bits.

The mask of layers that see all tokens is made in the decoder, where the rows are known. It states the far
part and the first token of each row. So a layer that runs again in the backward pass, outside of the decoder,
attends as before.
"""

from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ropewalk.errors import ModelError
from ropewalk.models.far_cache import store_far_keys
from ropewalk.models.far_part import FarPart, attend_near
from ropewalk.models.replaced_attribute import ReplacedAttribute
from ropewalk.models.rotary import Attachment, not_compiled
from ropewalk.models.rotary_calls import named_inputs

if TYPE_CHECKING:
    from ropewalk.models.model import Model

NAME = "near_far"
ATTRIBUTE = "_ropewalk_far_attention"  # of every attention module
NO_PART = -1  # instead of an index, for rows without a far part


class FarAttention:
    """Attention with far parts, which rows of a batch may choose.

    Attributes:
        parts: the far parts.
        length: the most tokens of a row; layers with a window that long see all tokens.
        choose: called before the decoder reads; returns the index of each row's part or `NO_PART`, or one
            index for all rows. By default, all rows have the first part.
    """

    def __init__(
        self, parts: Sequence[FarPart], *, length: int, choose: Callable[[], Sequence[int]] = lambda: (0,)
    ) -> None:
        self.parts = tuple(parts)
        self.length = length
        self.choose = choose

    def attach(self, model: "Model") -> Iterator[Attachment]:
        """Set the attention implementation.

        Raises:
            ModelError: sliding windows are longer than the trained window, and shorter than `length`.
        """
        _require_trained_windows(model, self.length)
        yield _Implementation(model.model)
        yield model.decoder.register_forward_pre_hook(self._before_decoder, with_kwargs=True)
        yield model.decoder.register_forward_hook(_after_decoder, always_call=True)
        for module in model.decoder.modules():
            if hasattr(module, "config") and hasattr(module, "layer_idx"):
                yield ReplacedAttribute(module, ATTRIBUTE, self)

    @not_compiled
    def _before_decoder(
        self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Let the cache store far keys too, if a row has a far part."""
        _now.set(None)
        indices = tuple(self.choose())
        if set(indices) == {NO_PART}:
            return args, kwargs
        inputs: dict[str, Any] = named_inputs(decoder, args, kwargs)
        cache, use_cache = inputs.get("past_key_values"), inputs.get("use_cache")
        _require_own_mask(inputs.get("attention_mask"), cache)
        config: Any = decoder.config
        use_cache = config.use_cache if use_cache is None else use_cache
        if cache is None and use_cache and not torch.is_grad_enabled():
            cache = inputs["past_key_values"] = DynamicCache(config=config)
        store_far_keys(cache, _rotate_further, self.parts[0].rotation.layers, self.length)
        ids = inputs.get("input_ids")
        tokens: Tensor = inputs["inputs_embeds"] if ids is None else ids
        for part in self.parts:
            part.begin(tokens.shape[1], tokens.device)
        _now.set(_Reading(self, indices))
        return (), inputs

    def rotate(self, layer_index: int, keys: Tensor, first: int, indices: Sequence[int]) -> Tensor:
        """Keys of consecutive tokens, rotated once more by each row's far part; copies without one.

        Args:
            first: the index in the cache of the first key.
            indices: as `choose` returns them.
        """
        if len(set(indices)) == 1:
            return self._rotate(layer_index, keys, first, indices[0])
        return torch.cat(
            [
                self._rotate(layer_index, keys[row : row + 1], first, index)
                for row, index in enumerate(indices)
            ]
        )

    def _rotate(self, layer_index: int, keys: Tensor, first: int, index: int) -> Tensor:
        return keys if index == NO_PART else self.parts[index].rotate(layer_index, keys, first)

    def attend(
        self,
        layer_index: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        rows: Sequence[tuple[int, int]],
        scale: float,
    ) -> Tensor:
        """Attention of one layer, as `FarPart.attend`; zero for padding before a row's first token.

        Padding after the last token changes nothing, because no token sees it.

        Args:
            rows: of each row, the index of its part or `NO_PART`, and the index of its first token.
        """
        tensors = query, key, value
        if len(set(rows)) == 1:
            return self._attend(layer_index, tensors, *rows[0], scale)
        return torch.cat(
            [
                self._attend(layer_index, tuple(part[row : row + 1] for part in tensors), index, start, scale)
                for row, (index, start) in enumerate(rows)
            ]
        )

    def _attend(
        self, layer_index: int, tensors: tuple[Tensor, ...], index: int, start: int, scale: float
    ) -> Tensor:
        """Attention of rows with one far part and one first token."""
        query, key, value = tensors
        num_earlier = key.shape[2] - query.shape[2]
        num_padding = min(max(0, start - num_earlier), query.shape[2] - 1)
        start = min(start, num_earlier + num_padding)
        query, key, value = query[:, :, num_padding:], key[:, :, start:], value[:, :, start:]
        if index == NO_PART:
            output = attend_near(query, key, value, scale=scale)
        else:
            output = self.parts[index].attend(layer_index, query, key, value, first=start, scale=scale)
        return pad(output, (0, 0, num_padding, 0))


@dataclass(frozen=True, eq=False)
class _Reading:
    """The rows that a decoder reads, of which some have a far part.

    Attributes:
        indices: of their parts, as `FarAttention` takes them.
    """

    attention: FarAttention
    indices: tuple[int, ...]

    def sees_all(self, window: int, num_keys: int) -> bool:
        """Whether a layer with a window sees all tokens."""
        return window >= max(self.attention.length, num_keys)

    def mask(self, num_rows: int, is_token: Tensor | None) -> Tensor:
        """Each row's part and first token, shape (num_rows, 2, 1, 1), on the CPU.

        Args:
            is_token: which keys are no padding, (num_rows, keys), or None if all are.
        """
        indices = self.indices * num_rows if len(self.indices) == 1 else self.indices
        first = [0] * num_rows if is_token is None else is_token.int().argmax(-1).tolist()
        return torch.tensor(list(zip(indices, first, strict=True))).view(num_rows, 2, 1, 1)


# What the decoder that runs now in this thread reads; None if no row has a far part.
_now: ContextVar[_Reading | None] = ContextVar("ropewalk_far_attention", default=None)


@not_compiled
def _after_decoder(*_: Any) -> None:
    _now.set(None)


@not_compiled
def _rotate_further(layer_index: int, keys: Tensor, first: int) -> Tensor:
    """Far keys as caches store them. A function, so that a copy of a cache copies no model."""
    now = _now.get()
    return keys if now is None else now.attention.rotate(layer_index, keys, first, now.indices)


class _Implementation:
    """Sets a model's attention implementation until `remove`."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._before = model.config._attn_implementation
        model.set_attn_implementation(NAME)

    def remove(self) -> None:
        self._model.set_attn_implementation(self._before)


# ---------------------------------------------------------------- as transformers calls it


@not_compiled
def _mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """sdpa's mask; for layers that see all tokens, if a row has a far part, that of `_Reading`.

    Raises:
        ModelError: tokens do not see exactly the earlier tokens of their row.
    """
    now, local_size = _now.get(), kwargs.get("local_size")
    if now is None or (local_size is not None and not now.sees_all(local_size, kwargs["kv_length"])):
        return sdpa_mask(*args, **kwargs)  # type: ignore[no-any-return]
    is_token: Tensor | None = kwargs.get("attention_mask")
    _require_all_earlier(kwargs, is_token)
    return now.mask(kwargs["batch_size"], is_token)


@not_compiled
def _forward(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """An attention function of transformers.

    Args:
        query, key, value: (rows, heads, tokens, head_dim); keys and values may have fewer heads.
        attention_mask: as `_mask` returns it.

    Returns:
        (rows, tokens, heads, head_dim), and no weights.
    """
    if attention_mask is None or attention_mask.dtype != torch.int64:
        near_key = key[..., : query.shape[-1]]
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, near_key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    _require_plain(kwargs, dropout)
    attention: FarAttention = getattr(module, ATTRIBUTE)
    rows = [(int(index), int(first)) for index, first in attention_mask.flatten(1).tolist()]
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    output = attention.attend(module.layer_idx, query, key, value, rows, scale)
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, _forward)
AttentionMaskInterface.register(NAME, _mask)


# ---------------------------------------------------------------- refusals


def _require_trained_windows(model: "Model", length: int) -> None:
    window, trained = model.description.sliding_window, model.geometry.original_length
    if window is not None and not model.full_attention and trained < window < length:
        raise ModelError(
            f"{model.name} has layers with a window of {window} tokens, more than the trained {trained}, "
            f"which can't have a far part: use full attention, or factors without a near window."
        )


def _require_own_mask(mask: Any, cache: Any) -> None:
    """Refuse a cache of fixed size, and a mask that transformers would pass through to the attention."""
    if getattr(cache, "is_compileable", False):
        raise ModelError(
            "Near-far factors need a cache that grows with the text, but this one has a fixed size: use "
            "transformers' DynamicCache."
        )
    if mask is not None and (not isinstance(mask, Tensor) or mask.dim() != 2):
        raise ModelError(
            "Near-far factors need attention to all earlier tokens of a row, but the attention mask is not "
            "of shape (rows, tokens): give one that only marks padding."
        )


def _require_all_earlier(kwargs: dict[str, Any], is_token: Tensor | None) -> None:
    """Refuse masks that hide earlier tokens, and caches without all of them."""
    if not kwargs.get("allow_is_causal_skip", True):
        raise ModelError(
            "Near-far factors need attention to all earlier tokens of a row, but the text is packed or the "
            "model limits what tokens see: read one text per row, or use factors without a near window."
        )
    if int(kwargs.get("q_offset", 0)) + kwargs["q_length"] != kwargs["kv_length"]:
        raise ModelError(
            "Near-far factors need the keys of all tokens of the text and no others, but the cache has "
            "others: use transformers' DynamicCache."
        )
    if is_token is None:
        return
    begins = is_token.int().diff(dim=-1) > 0
    if bool((begins.sum(-1) + is_token[:, 0] > 1).any()):
        raise ModelError(
            "Near-far factors need rows with padding before and after their tokens only, but a mask hides "
            "tokens within a row: leave these tokens out."
        )


def _require_plain(kwargs: dict[str, Any], dropout: float) -> None:
    """Refuse parts of attention that the two-part softmax does not have."""
    given = [name for name in ("s_aux", "softcap", "position_bias") if kwargs.get(name) is not None]
    if dropout:
        given.append("dropout")
    if given:
        raise ModelError(
            f"Near-far factors need plain attention, but this model's has {', '.join(given)}: use factors "
            f"without a near window."
        )
