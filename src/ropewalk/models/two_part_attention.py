"""Causal attention whose logits are computed in one way for near keys and in another way for far keys.

Keys fewer than W tokens before a query are near, the others far. With W = 3, and n and f for near and far:

    key      0 1 2 3 4 5 6
    query 3  f n n n
    query 4  f f n n n
    query 5  f f f n n n
    query 6  f f f f n n n

Both areas are cut into rectangles, whose keys all queries see, and triangles. The lower triangles are causal
squares; an upper triangle is one too, after queries and keys are reversed. So torch's CPU kernel computes
every part without a mask, and each logit once. It returns the log-sum-exp of each softmax, which weights the
parts. Its backward pass takes the output and the log-sum-exp of the whole softmax for each part: the
derivatives of a softmax contain nothing else of the other parts.

Other devices, and values of another size than keys, use logits that exist for a tile of queries at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.integrations.sdpa_attention import repeat_kv

# Attention on a CPU, which returns (output, log-sum-exp), and its backward pass; torch has no public names.
_attend = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_attend_backward = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)
TILE_QUERIES = 128  # queries whose logits exist at once, without that kernel


def two_part_attention(
    near: tuple[Tensor, Tensor], far: tuple[Tensor, Tensor], value: Tensor, window: int, scale: float
) -> Tensor:
    """One softmax over the logits of near and far keys, times their values; differentiable.

    Args:
        near: queries, (rows, heads, num_queries, dim), and keys, (rows, key_heads, num_keys, dim), for keys
            fewer than `window` tokens before a query. The queries are the last of `num_keys` tokens.
        far: the same for the other keys.
        value: (rows, key_heads, num_keys, value_dim).
        window: W, tokens; 0 if all keys are far.
        scale: of the logits.

    Returns:
        (rows, heads, num_queries, value_dim).
    """
    groups = near[0].shape[1] // value.shape[1]
    if _attend is None or value.device.type != "cpu" or value.shape[-1] != near[0].shape[-1]:
        near, far = ((query, repeat_kv(key, groups)) for query, key in (near, far))
        return _in_tiles(near, far, repeat_kv(value, groups), window, scale)
    if torch.is_grad_enabled() and groups > 1:  # the backward pass of grouped heads takes five times as long
        near, far = ((query, repeat_kv(key, groups)) for query, key in (near, far))
        value = repeat_kv(value, groups)
    return _InParts.apply(*near, *far, value, window, scale)  # type: ignore[no-any-return,no-untyped-call]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A rectangle of the logits, or a causal square; or several of one shape along the diagonal.

    Attributes:
        is_far: which queries and keys it reads.
        first_query, first_key: of the first rectangle, as indices into queries and keys.
        num_queries, num_keys: of each rectangle.
        count, step: the number of rectangles, and the tokens from one to the next.
        is_causal: whether query i sees keys up to i only, of equally many.
        is_reversed: whether that holds after queries and keys are reversed.
    """

    is_far: bool
    first_query: int
    first_key: int
    num_queries: int
    num_keys: int
    count: int = 1
    step: int = 0
    is_causal: bool = False
    is_reversed: bool = False

    def queries(self, tensor: Tensor) -> Tensor:
        """Of a tensor (rows, heads, num_queries, ...), a view (rows, heads, count, queries, ...)."""
        return self._cut(tensor, self.first_query, self.num_queries)

    def keys(self, tensor: Tensor) -> Tensor:
        """Of a tensor (rows, heads, num_keys, ...), a view (rows, heads, count, keys, ...)."""
        return self._cut(tensor, self.first_key, self.num_keys)

    def _cut(self, tensor: Tensor, first: int, size: int) -> Tensor:
        last = first + (self.count - 1) * self.step + size
        return tensor[:, :, first:last].unfold(2, size, self.step or size).movedim(-1, 3)

    def packed(self, view: Tensor) -> Tensor:
        """As the kernel takes it: (rows * count, heads, tokens, ...), reversed if the part is."""
        packed = view.transpose(1, 2).flatten(0, 1)
        return packed.flip(2) if self.is_reversed else packed

    def unpacked(self, packed: Tensor) -> Tensor:
        """The inverse of `packed`."""
        packed = packed.flip(2) if self.is_reversed else packed
        return packed.view(-1, self.count, *packed.shape[1:]).transpose(1, 2)


def parts(num_queries: int, num_keys: int, window: int) -> Iterator[Part]:
    """The parts that hold each visible logit once."""
    first = num_keys - num_queries  # the first query is the token with this index
    yield from _far_parts(first, num_keys, window)
    start = first
    while start < num_keys and window:
        # Tiles of W queries begin at a multiple of W if the first query is nearer to the beginning than W:
        # then a tile sees all keys before it, or none of its upper triangle is cut off at key 0.
        stop = min(num_keys, window if start < window else start + window)
        count = max(1, (num_keys - start) // window) if stop - start == window <= start else 1
        yield from _near_parts(start, stop, window, first, count)
        start = stop + (count - 1) * window


def _far_parts(first: int, num_keys: int, window: int) -> Iterator[Part]:
    start = max(first, window)  # the first query with a far key
    size, num_all = num_keys - start, start - window  # all these queries see the first `num_all` keys
    if size <= 0:
        return
    part = partial(Part, is_far=True, first_query=start - first, num_queries=size)
    if size == 1:
        yield part(first_key=0, num_keys=num_all + 1)
        return
    if num_all:
        yield part(first_key=0, num_keys=num_all)
    yield part(first_key=num_all, num_keys=size, is_causal=True)


def _near_parts(start: int, stop: int, window: int, first: int, count: int) -> Iterator[Part]:
    """The near keys of queries `start` to `stop`, at most W, and of `count` - 1 further tiles after them."""
    size, query = stop - start, start - first
    all_from = max(0, stop - window)  # all queries of a tile see the keys from here to its first query
    last = stop if size == 1 else start
    tiles = partial(Part, is_far=False, first_query=query, count=count, step=window)
    if all_from < last:
        yield tiles(first_key=all_from, num_queries=size, num_keys=last - all_from)
    if size == 1:
        return
    yield tiles(first_key=start, num_queries=size, num_keys=size, is_causal=True)
    if stop > window:  # query i also sees the keys from start - W + 1 + i on: an upper triangle
        yield tiles(
            first_key=start - window + 1,
            num_queries=size - 1,
            num_keys=size - 1,
            is_causal=True,
            is_reversed=True,
        )


class _InParts(torch.autograd.Function):
    """`two_part_attention` by the CPU kernel."""

    @staticmethod
    def forward(
        ctx: Any,
        near_query: Tensor,
        near_key: Tensor,
        far_query: Tensor,
        far_key: Tensor,
        value: Tensor,
        window: int,
        scale: float,
    ) -> Tensor:
        assert _attend is not None
        sides = (near_query, near_key), (far_query, far_key)
        exact = torch.promote_types(value.dtype, torch.float32)
        output = near_query.new_zeros(near_query.shape, dtype=exact)
        sums = near_query.new_full(near_query.shape[:3], -torch.inf, dtype=exact)
        for part in parts(near_query.shape[2], value.shape[2], window):
            query, key = sides[part.is_far]
            found, found_sums = _attend(
                *_inputs(part, query, key, value), is_causal=part.is_causal, scale=scale
            )
            _add(part, output, sums, part.unpacked(found), part.unpacked(found_sums))
        output = output.to(value.dtype)
        ctx.save_for_backward(near_query, near_key, far_query, far_key, value, output, sums)
        ctx.window, ctx.scale = window, scale
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        assert _attend_backward is not None
        *inputs, value, output, sums = ctx.saved_tensors
        sides, of_sides = (inputs[:2], inputs[2:]), [torch.zeros_like(tensor) for tensor in inputs]
        of_value = torch.zeros_like(value)
        for part in parts(output.shape[2], value.shape[2], ctx.window):
            query, key = sides[part.is_far]
            of_query, of_key = of_sides[2 * part.is_far :][:2]
            found = _attend_backward(
                part.packed(part.queries(gradient)),
                *_inputs(part, query, key, value),
                part.packed(part.queries(output)),
                part.packed(part.queries(sums)),
                0.0,
                part.is_causal,
                scale=ctx.scale,
            )
            part.queries(of_query).add_(part.unpacked(found[0]))
            part.keys(of_key).add_(part.unpacked(found[1]))
            part.keys(of_value).add_(part.unpacked(found[2]))
        return *of_sides, of_value, None, None


def _inputs(part: Part, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of a part, as the kernel takes them."""
    packed = part.packed
    return packed(part.queries(query)), packed(part.keys(key)), packed(part.keys(value))


def _add(part: Part, output: Tensor, sums: Tensor, found: Tensor, found_sums: Tensor) -> None:
    """Add the attention to one part, in place; each is weighted by its share of the softmax."""
    output, sums = part.queries(output), part.queries(sums)
    total = torch.logaddexp(sums, found_sums)
    share, found_share = ((part_sums - total).exp_().unsqueeze(-1) for part_sums in (sums, found_sums))
    output.mul_(share).addcmul_(found, found_share)
    sums.copy_(total)


def _in_tiles(
    near: tuple[Tensor, Tensor], far: tuple[Tensor, Tensor], value: Tensor, window: int, scale: float
) -> Tensor:
    """`two_part_attention` on any device, with as many heads of keys as of queries."""
    (near_query, near_key), (far_query, far_key) = near, far
    num_queries, num_keys = near_query.shape[2], value.shape[2]
    outputs = []
    for start in range(0, num_queries, TILE_QUERIES):
        stop = min(num_queries, start + TILE_QUERIES)
        first, last = num_keys - num_queries + start, num_keys - num_queries + stop
        tile = (
            near_query[:, :, start:stop],
            near_key[:, :, :last],
            far_query[:, :, start:stop],
            far_key[:, :, :last],
            value[:, :, :last],
        )
        # Without gradients the checkpoint only calls the function; with them, no weights are kept.
        outputs.append(checkpoint(_tile, *tile, first, window, scale, use_reentrant=False))
    return torch.cat(outputs, dim=2)


def _tile(
    near_query: Tensor,
    near_key: Tensor,
    far_query: Tensor,
    far_key: Tensor,
    value: Tensor,
    first: int,
    window: int,
    scale: float,
) -> Tensor:
    """Attention of consecutive queries, from the token with index `first` on, by all their logits."""
    queries = torch.arange(first, first + near_query.shape[2], device=value.device).unsqueeze(-1)
    distances = queries - torch.arange(value.shape[2], device=value.device)
    near, far = near_query @ near_key.mT, far_query @ far_key.mT
    logits = torch.where(distances < window, near, far) * scale
    weights = logits.masked_fill(distances < 0, -torch.inf).softmax(
        -1, dtype=torch.promote_types(value.dtype, torch.float32)
    )
    return weights.to(value.dtype) @ value
