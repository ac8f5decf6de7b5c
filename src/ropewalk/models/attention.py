"""Attention of a piece of text to itself and to all before it, without a mask.

Transformers makes a mask of (piece, all so far) for it, and torch's kernel for processors turns that into
numbers: 10 GiB for 16384 tokens of 131072, made anew in every layer, and its upper half is worked through for
nothing. But of a piece's keys only its own need the causal rule:

    keys    earlier earlier earlier | own
    query   all     all     all     | causal

Both parts are what the kernel does without a mask, and it tells how much weight each had in the softmax, by
which they are put together again. On other devices flash attention knows such pieces itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

NAME = "sdpa_piecewise"
# (output, log of the softmax's sum) of attention on a processor; torch has no public name for it.
_attend = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)


@contextmanager
def piecewise_attention(model: Any) -> Iterator[None]:
    """Meanwhile pieces are read without masks, where that is the model's own attention on a processor.

    Layers with a window or another pattern of their own, padded rows and models that scale their scores
    otherwise keep transformers' way.
    """
    if _attend is None or model.device.type != "cpu" or model.config._attn_implementation != "sdpa":
        yield
        return
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation("sdpa")


def cut_back(cache: Any, num_tokens: int) -> bool:
    """Leave only the first tokens in a KV cache; False, and nothing done, where that can't be.

    It needs at least one token and no more than there are, and layers that keep all that they saw.
    """
    layers = getattr(cache, "layers", ())
    if not layers or any(type(layer) is not DynamicLayer for layer in layers):
        return False
    num_known = cache.get_seq_length()
    if not 0 < num_tokens <= num_known:
        return False
    cache.crop(num_tokens - num_known)
    return True


def _no_causal_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """None where each token sees all before it; else what `sdpa` would be given."""
    is_plain = (
        kwargs.get("mask_function") is causal_mask_function
        and kwargs.get("allow_is_causal_skip", True)
        and kwargs.get("attention_mask") is None
        and kwargs.get("local_size") is None
    )
    return None if is_plain else sdpa_mask(*args, **kwargs)


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
    """As transformers' attention functions: (rows, heads, tokens, size) to (rows, tokens, heads, size)."""
    num_earlier = key.shape[2] - query.shape[2]
    suits = attention_mask is None and num_earlier > 0 and query.shape[2] > 1 and key.shape == value.shape
    if not suits or kwargs.get("position_bias") is not None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    key, value = (_for_each_head(tensor, query.shape[1]) for tensor in (key, value))
    parts = [
        _part(query, key[:, :, :num_earlier], value[:, :, :num_earlier], False, scaling),
        _part(query, key[:, :, num_earlier:], value[:, :, num_earlier:], True, scaling),
    ]
    return _put_together(parts).transpose(1, 2), None


def _part(
    query: Tensor, key: Tensor, value: Tensor, is_causal: bool, scale: float | None
) -> tuple[Tensor, Tensor]:
    assert _attend is not None
    return _attend(query, key, value, 0.0, is_causal, scale=scale)  # type: ignore[no-any-return]


def _put_together(parts: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Of each part its share in the whole softmax; sums are logarithms, shape (rows, heads, tokens)."""
    (earlier, earlier_sum), (own, own_sum) = parts
    share = torch.sigmoid(earlier_sum - own_sum).unsqueeze(-1).to(own.dtype)
    return torch.lerp(own, earlier, share)


def _for_each_head(grouped: Tensor, num_heads: int) -> Tensor:
    """Keys or values of groups for each of their heads, which the kernel asks for."""
    rows, groups, length, size = grouped.shape
    return grouped.unsqueeze(2).expand(rows, groups, num_heads // groups, length, size).flatten(1, 2)


AttentionInterface.register(NAME, _forward)
AttentionMaskInterface.register(NAME, _no_causal_mask)
