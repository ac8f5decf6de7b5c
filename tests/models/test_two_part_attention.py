"""Attention with near and far logits is that of both matrices, forwards and backwards."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ropewalk.models import two_part_attention as module
from ropewalk.models.two_part_attention import parts, two_part_attention

DIM, SCALE = 8, 0.3
# (queries, keys, W): no far key, all far, one token, tiles that end early, continued queries
SHAPES = [
    (1, 1, 1), (9, 9, 0), (9, 9, 1), (9, 9, 4), (12, 12, 4), (9, 9, 8), (9, 9, 9), (9, 9, 50), (1, 9, 3),
    (1, 9, 0), (4, 11, 3), (4, 11, 7), (4, 11, 9), (5, 23, 2), (3, 7, 20), (150, 150, 40), (140, 300, 64),
]  # fmt: skip


def inputs(
    num_queries: int, num_keys: int, dtype: torch.dtype, *, key_heads: int = 4, value_dim: int = DIM
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(num_keys)
    query, key, value = (4, num_queries, DIM), (key_heads, num_keys, DIM), (key_heads, num_keys, value_dim)
    tensors = (
        torch.randn(2, *shape, generator=generator, dtype=torch.float64)
        for shape in (query, key, query, key, value)
    )
    return tuple(tensor.to(dtype).requires_grad_() for tensor in tensors)


def attend(tensors: tuple[Tensor, ...], window: int) -> Tensor:
    near_query, near_key, far_query, far_key, value = tensors
    return two_part_attention((near_query, near_key), (far_query, far_key), value, window, SCALE)


def reference(tensors: tuple[Tensor, ...], window: int) -> Tensor:
    """Both matrices of logits, and one softmax."""
    near_query, near_key, far_query, far_key, value = tensors
    groups = near_query.shape[1] // value.shape[1]
    near_key, far_key, value = (part.repeat_interleave(groups, 1) for part in (near_key, far_key, value))
    num_queries, num_keys = near_query.shape[2], value.shape[2]
    distances = torch.arange(num_keys - num_queries, num_keys)[:, None] - torch.arange(num_keys)
    logits = torch.where(distances < window, near_query @ near_key.mT, far_query @ far_key.mT) * SCALE
    return logits.masked_fill(distances < 0, -torch.inf).softmax(-1) @ value


def gradients(output: Tensor, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    return torch.autograd.grad((output * weights).sum(), tensors, allow_unused=True, materialize_grads=True)


def assert_close(found: Tensor, expected: Tensor) -> None:
    tolerance = 1e-12 if found.dtype == torch.float64 else 1e-5
    largest = max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(found, expected.to(found.dtype), rtol=0, atol=tolerance * largest)


@pytest.fixture(params=["kernel", "tiles"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """With torch's CPU kernel, and without."""
    if request.param == "tiles":
        monkeypatch.setattr(module, "_attend", None)
    elif module._attend is None:
        pytest.skip("this torch has no such kernel")
    return request.param


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("key_heads", [4, 2, 1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_and_gradients_are_those_of_both_matrices(
    way: str, shape: tuple[int, int, int], key_heads: int, dtype: torch.dtype
) -> None:
    num_queries, num_keys, window = shape
    tensors = inputs(num_queries, num_keys, dtype, key_heads=key_heads)
    exact = tuple(tensor.detach().double().requires_grad_() for tensor in tensors)
    found, expected = attend(tensors, window), reference(exact, window)

    assert found.dtype == dtype
    assert_close(found, expected)
    for ours, theirs in zip(gradients(found, tensors), gradients(expected, exact), strict=True):
        assert_close(ours, theirs)
    with torch.no_grad():
        assert_close(attend(tensors, window), expected)


@pytest.mark.parametrize("value_dim", [5, 12])
def test_values_can_have_another_size_than_keys(value_dim: int) -> None:
    tensors = inputs(9, 15, torch.float64, key_heads=2, value_dim=value_dim)
    found, expected = attend(tensors, 4), reference(tensors, 4)

    assert_close(found, expected)
    for ours, theirs in zip(gradients(found, tensors), gradients(expected, tensors), strict=True):
        assert_close(ours, theirs)


@torch.no_grad()
def test_half_precision_is_as_exact_as_its_outputs(way: str) -> None:
    tensors = inputs(20, 30, torch.bfloat16, key_heads=2)
    expected = reference(tuple(tensor.double() for tensor in tensors), 7)
    assert float((attend(tensors, 7).double() - expected).abs().max()) < 0.02


@given(num_queries=st.integers(1, 30), num_earlier=st.integers(0, 30), window=st.integers(0, 70))
def test_the_parts_hold_each_visible_logit_once(num_queries: int, num_earlier: int, window: int) -> None:
    num_keys = num_earlier + num_queries
    found = torch.zeros(2, num_queries, num_keys, dtype=torch.int64)  # near and far
    for part in parts(num_queries, num_keys, window):
        shape = torch.ones(part.num_queries, part.num_keys, dtype=torch.int64)
        shape = shape.tril() if part.is_causal else shape
        shape = shape.flip(0, 1) if part.is_reversed else shape
        for number in range(part.count):
            query, key = part.first_query + number * part.step, part.first_key + number * part.step
            assert query + part.num_queries <= num_queries
            assert key + part.num_keys <= num_keys
            found[int(part.is_far), query : query + part.num_queries, key : key + part.num_keys] += shape
    distances = torch.arange(num_earlier, num_keys)[:, None] - torch.arange(num_keys)
    is_visible, is_near = distances >= 0, distances < window
    assert torch.equal(found[0], (is_visible & is_near).long())
    assert torch.equal(found[1], (is_visible & ~is_near).long())
