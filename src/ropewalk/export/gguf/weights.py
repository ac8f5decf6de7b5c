"""Whether a GGUF file holds a checkpoint's weights: a few tensors are compared, a few rows of each.

Values that are stored as floats must be the same, rounded to that float. Values that are packed in blocks are
no longer the same, but rounded to the nearest of a few levels of their block: of a file that was made from
these weights, hardly any value is nearer to another level of its block than to its own. Of other weights many
are, though they differ by less than the rounding.

              level          level          level          level
    -----------|--------------|--------------|--------------|------
                      w   -> stored here                    both right
                          w'  but stored left of it         misplaced: rounded from other weights

Norms are floats in every GGUF file; so a full fine-tuning shows even without that.
"""

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from ropewalk.errors import ExportError
from ropewalk.export.gguf.file import GgufContent, StoredTensor
from ropewalk.models.transformers4_config import CONFIG, read_config_file
from ropewalk.models.weight_files import require_plain_weights, stored_tensors, weight_files

Kind = gguf.GGMLQuantizationType
FLOATS = {Kind.F32: np.float32, Kind.F16: np.float16}
# The packings that round each value to the nearest level of its block, and the share of misplaced values
# that they may have. From the weights themselves up to 0.2% are (the levels are stored rounded); by way of
# bfloat16 0.3%; with an importance matrix 0.6% of the first four. Of weights that are 1% of their spread off,
# at least 1.5% of the first four, 0.4% of Q2_K and 0.9% of the others.
LARGEST_MISPLACED = {
    **dict.fromkeys((Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1), 0.01),
    Kind.Q2_K: 0.001,
    **dict.fromkeys((Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K, Kind.Q8_0, Kind.IQ4_NL, Kind.IQ4_XS), 0.004),
}
# In these the two dimensions of a pair stand side by side in a GGUF, half a head apart in a checkpoint.
PERMUTED = ("llama", "mistral3", "granite", "granitemoe", "minicpm")
GROUP = 16  # values that share their levels in all of these packings
NUM_ROWS = 64


def require_same_weights(folder: Path, content: GgufContent) -> None:
    """Compare embeddings, norms and the matrices of the first, a middle and the last layer.

    Args:
        content: of an architecture that `gguf` knows, with as many layers as its `block_count` says.

    Raises:
        ExportError: the folder is no checkpoint; a tensor differs, or none can be compared.
        ModelError: its weights are missing, quantised, or not in safetensors.
    """
    if not folder.is_dir():
        raise ExportError(
            f"{folder} is no folder: name the checkpoint that {content.name} was converted from."
        )
    require_plain_weights(weight_files(folder, str(folder)), str(folder), _config(folder))
    num_layers = content.get("block_count")
    names = gguf.get_tensor_name_map(_architecture(content), num_layers)
    num_matrices = 0
    for name, file in sorted(stored_tensors(folder, str(folder)).items()):
        stored = content.tensor(names.get_name(name, (".weight", ".bias")) or "")
        if stored is None or not _is_chosen(stored.name, num_layers):
            continue
        weights = read_tensor(file, name)
        if weights.shape != stored.logical_shape:
            raise ExportError(
                f"{content.name} has {stored.name} of the shape {stored.logical_shape}, but in {folder} it "
                f"is {weights.shape}: name a GGUF of this checkpoint."
            )
        if is_compared(stored):
            num_matrices += weights.ndim > 1
            _require_same(weights, stored, content, folder)
    if not num_matrices:
        raise ExportError(
            f"{content.name} holds no matrix that can be compared with {folder}: write the factors into an "
            f"F16 or Q8_0 file of it, and quantise that."
        )


def is_compared(stored: StoredTensor) -> bool:
    """Whether its way of storing values can be judged."""
    return stored.kind in (*FLOATS, Kind.BF16, *LARGEST_MISPLACED)


def misplaced_share(weights: NDArray[np.float32], stored: NDArray[np.float32]) -> float:
    """The share of values that lie nearer to another level used in their group than to their own."""
    weights, stored = weights.reshape(-1, GROUP, 1), stored.reshape(-1, GROUP)
    own = np.abs(weights[..., 0] - stored)
    nearest = np.abs(weights - stored[:, None, :]).min(axis=-1)
    return float((nearest < own * 0.999).mean())


def _config(folder: Path) -> Any:
    """Only read, not understood: a GGUF may be of a model that transformers does not know."""
    return read_config_file(folder / CONFIG)


def _architecture(content: GgufContent) -> object:
    return next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == content.architecture)


def read_tensor(file: Path, name: str) -> NDArray[np.float32]:
    """A tensor of a checkpoint, in float32."""
    with safe_open(file, framework="pt") as opened:
        values: NDArray[np.float32] = opened.get_tensor(name).float().numpy()
    return values


def tensor_shape(file: Path, name: str) -> tuple[int, ...]:
    """Its shape alone."""
    with safe_open(file, framework="pt") as opened:
        return tuple(opened.get_slice(name).get_shape())


def _is_chosen(name: str, num_layers: int) -> bool:
    layer = re.match(r"blk\.(\d+)\.", name)
    return layer is None or int(layer[1]) in (0, num_layers // 2, num_layers - 1)


def _require_same(
    weights: NDArray[np.float32], stored: StoredTensor, content: GgufContent, folder: Path
) -> None:
    if content.architecture in PERMUTED and stored.name.endswith(("attn_q.weight", "attn_k.weight")):
        num_heads = content.get("attention.head_count")
        if "attn_k" in stored.name:
            num_heads = content.get("attention.head_count_kv") or num_heads
        if type(num_heads) is not int or num_heads < 1 or len(weights) % (2 * num_heads):
            raise ExportError(
                f"{content.name} states {num_heads!r:.40} heads for {stored.name}, which has {len(weights)} "
                f"rows: convert the checkpoint again."
            )
        weights = side_by_side(weights, num_heads)
    step = max(1, len(weights) // NUM_ROWS)
    rows, kept = weights[::step], stored.load()[::step]
    if stored.kind in FLOATS:
        share = float((rows.astype(FLOATS[stored.kind]) != kept).mean())
    elif stored.kind == Kind.BF16:
        share = float((gguf.quants.quantize(rows, stored.kind) != kept).mean())
    else:
        share = misplaced_share(rows, gguf.quants.dequantize(kept, stored.kind))
    if share > LARGEST_MISPLACED.get(stored.kind, 0):
        raise ExportError(
            f"{content.name} does not hold the weights of {folder}: {share:.1%} of the values compared in "
            f"{stored.name} can't be made of them; convert this checkpoint to GGUF, and name that file."
        )


def side_by_side(weights: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Rows of a query or key projection in a GGUF's order.

    checkpoint   pair i of a head turns rows i and i + head_dim / 2
    GGUF         pair i of a head turns rows 2 i and 2 i + 1
    """
    halves = weights.reshape(num_heads, 2, -1, *weights.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weights.shape))
