"""Tensors of a checkpoint as a GGUF file has them: float32, and the two dimensions of a pair side by side."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open


def read_tensor(file: Path, name: str) -> NDArray[np.float32]:
    """Read a tensor of a safetensors file, as float32."""
    with safe_open(file, framework="pt") as opened:
        values: NDArray[np.float32] = opened.get_tensor(name).float().numpy()
    return values


def tensor_shape(file: Path, name: str) -> tuple[int, ...]:
    """The shape of a tensor, without reading its values."""
    with safe_open(file, framework="pt") as opened:
        return tuple(opened.get_slice(name).get_shape())


def pairs_side_by_side(weights: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Reorder the rows of a query or key projection as a GGUF file has them.

    checkpoint   pair i of a head is in rows i and i + head_dim / 2
    GGUF         pair i of a head is in rows 2 i and 2 i + 1

    Args:
        weights: shape (num_heads * head_dim, ...), in the checkpoint's order.
    """
    halves = weights.reshape(num_heads, 2, -1, *weights.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weights.shape))
