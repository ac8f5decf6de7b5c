"""Attention of a chunk of tokens to itself and to all earlier tokens, without a mask.

transformers makes a mask of shape (chunk, all tokens so far). torch's CPU kernel converts it to floats in
every layer (10 GiB for 16384 tokens of 131072), and computes the masked half too. But only the keys of the
chunk itself need the causal rule:

    keys    earlier earlier earlier | own
    query   all     all     all     | causal

The kernel computes both parts without a mask, and returns the log-sum-exp of each softmax, which weights the
two parts. On other devices, flash attention handles such chunks itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

from ropewalk.models.far_cache import FarKeysLayer

NAME = "sdpa_piecewise"
# Attention on a CPU, which returns (output, log-sum-exp); torch has no public name for it.
_attend = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)


@contextmanager
def piecewise_attention(model: Any) -> Iterator[None]:
    """Inside the `with`, chunks are read without masks, if the model runs `sdpa` attention on a CPU.

    Layers with a window or another pattern of their own, padded rows, and attention with a position bias are
    computed by transformers.
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
    """Crop a KV cache to its first tokens; returns False, and changes nothing, where that is not possible.

    `num_tokens` must be at least 1 and at most the tokens in the cache, and its layers must store every
    token.
    """
    layers = getattr(cache, "layers", ())
    if not layers or any(type(layer) not in (DynamicLayer, FarKeysLayer) for layer in layers):
        return False
    num_known = cache.get_seq_length()
    if not 0 < num_tokens <= num_known:
        return False
    cache.crop(num_tokens - num_known)
    return True


def _no_causal_mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """None where each token sees all earlier ones; else the mask for `sdpa`."""
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
    """An attention function of transformers.

    Args:
        query, key, value: (rows, heads, tokens, head_dim); keys and values may have fewer heads.

    Returns:
        (rows, tokens, heads, head_dim), and no weights.
    """
    num_earlier = key.shape[2] - query.shape[2]
    suits = attention_mask is None and num_earlier > 0 and query.shape[2] > 1 and key.shape == value.shape
    if not suits or kwargs.get("position_bias") is not None:
        return sdpa_attention_forward(  # type: ignore[no-any-return]
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    key, value = (repeat_kv(tensor, query.shape[1] // tensor.shape[1]) for tensor in (key, value))
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
    """The attention to both parts, each weighted by its share of the softmax.

    Args:
        parts: (output, log-sum-exp of shape (rows, heads, tokens)) of each part.
    """
    (earlier, earlier_sum), (own, own_sum) = parts
    share = torch.sigmoid(earlier_sum - own_sum).unsqueeze(-1).to(own.dtype)
    return torch.lerp(own, earlier, share)


AttentionInterface.register(NAME, _forward)
AttentionMaskInterface.register(NAME, _no_causal_mask)
