"""Whether a GGUF file has a checkpoint's weights: a few rows of a few tensors are compared.

Values stored as floats must be equal to the checkpoint's, rounded to that float type. Values packed in blocks
are rounded to the nearest of a few levels per block. In a file made from these weights hardly any value is
nearer to another level of its block than to its own. In a file of other weights many values are, even if they
differ by less than the rounding.

              level          level          level          level
    -----------|--------------|--------------|--------------|------
                      w   -> stored here                    both right
                          w'  but stored left of it         misplaced: rounded from other weights

Norms are floats in every GGUF file, so they suffice to detect a full fine-tuning.
"""

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from ropewalk.errors import ExportError
from ropewalk.export.gguf.checkpoint_tensors import pairs_side_by_side, read_tensor
from ropewalk.export.gguf.file import GgufContent, StoredTensor
from ropewalk.models.transformers4_config import CONFIG, read_config_file
from ropewalk.models.weight_files import require_plain_weights, stored_tensors, weight_files

FLOATS = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}
# The types that round each value to the nearest level of its block, and the largest share of misplaced
# values. Files made from the weights themselves have up to 0.2% (the levels are rounded too); by way of
# bfloat16 0.3%; with an importance matrix 0.6% for the first four types. Weights that differ by 1% of their
# spread give at least 1.5% for the first four types, 0.4% for Q2_K and 0.9% for the others.
LARGEST_MISPLACED = {
    GGMLQuantizationType.Q4_0: 0.01, GGMLQuantizationType.Q4_1: 0.01, GGMLQuantizationType.Q5_0: 0.01,
    GGMLQuantizationType.Q5_1: 0.01, GGMLQuantizationType.Q2_K: 0.001, GGMLQuantizationType.Q3_K: 0.004,
    GGMLQuantizationType.Q4_K: 0.004, GGMLQuantizationType.Q5_K: 0.004, GGMLQuantizationType.Q6_K: 0.004,
    GGMLQuantizationType.Q8_0: 0.004, GGMLQuantizationType.IQ4_NL: 0.004,
    GGMLQuantizationType.IQ4_XS: 0.004,
}  # fmt: skip
# The architectures whose GGUF files have the two dimensions of a pair side by side.
PERMUTED = ("llama", "mistral3", "granite", "granitemoe", "minicpm")
GROUP = 16  # values that share their levels in each of these types
NUM_ROWS = 64


def require_same_weights(folder: Path, content: GgufContent) -> None:
    """Compare embeddings, norms, and the matrices of the first, a middle and the last layer.

    Args:
        folder: the checkpoint.
        content: of an architecture that the `gguf` package knows.

    Raises:
        ExportError: the folder is not a checkpoint; a tensor differs; or no tensor can be compared.
        ModelError: the checkpoint's weights are missing, quantised, or not in safetensors.
    """
    if not folder.is_dir():
        raise ExportError(
            f"{folder} is not a folder: name the checkpoint that {content.name} was converted from."
        )
    num_layers = content.count("block_count")
    config = read_config_file(folder / CONFIG)  # transformers need not know the model
    require_plain_weights(weight_files(folder, str(folder)), str(folder), config)
    names = gguf.get_tensor_name_map(_architecture(content), num_layers)
    num_matrices = 0
    for name, file in sorted(stored_tensors(folder, str(folder)).items()):
        stored = content.tensor(names.get_name(name, (".weight", ".bias")) or "")
        if stored is None or not _is_sampled(stored.name, num_layers):
            continue
        weights = read_tensor(file, name)
        if weights.shape != stored.logical_shape:
            raise ExportError(
                f"{content.name} has {stored.name} in the shape {stored.logical_shape}, but {folder} has it "
                f"in the shape {weights.shape}: name a GGUF file of this checkpoint."
            )
        if is_comparable(stored):
            num_matrices += weights.ndim > 1
            _require_same(weights, stored, content, folder)
    if not num_matrices:
        raise ExportError(
            f"{content.name} has no matrix that can be compared with {folder}: write the factors into an "
            f"F16 or Q8_0 file of this checkpoint, and quantise that file."
        )


def is_comparable(stored: StoredTensor) -> bool:
    """Whether values of this tensor type can be compared with a checkpoint's."""
    return stored.tensor_type in (*FLOATS, GGMLQuantizationType.BF16, *LARGEST_MISPLACED)


def misplaced_share(weights: NDArray[np.float32], stored: NDArray[np.float32]) -> float:
    """The share of values that are nearer to another level of their group than to their own."""
    weights, stored = weights.reshape(-1, GROUP, 1), stored.reshape(-1, GROUP)
    own = np.abs(weights[..., 0] - stored)
    nearest = np.abs(weights - stored[:, None, :]).min(axis=-1)
    return float((nearest < own * 0.999).mean())


def _architecture(content: GgufContent) -> object:
    return next(
        architecture for architecture, name in gguf.MODEL_ARCH_NAMES.items() if name == content.architecture
    )


def _is_sampled(name: str, num_layers: int) -> bool:
    layer = re.match(r"blk\.(\d+)\.", name)
    return layer is None or int(layer[1]) in (0, num_layers // 2, num_layers - 1)


def _require_same(
    weights: NDArray[np.float32], stored: StoredTensor, content: GgufContent, folder: Path
) -> None:
    weights = _in_stored_order(weights, stored, content)
    step = max(1, len(weights) // NUM_ROWS)
    share = _differing_share(weights[::step], stored.read()[::step], stored.tensor_type)
    if share > LARGEST_MISPLACED.get(stored.tensor_type, 0):
        raise ExportError(
            f"{content.name} does not have the weights of {folder}: {share:.1%} of the compared values of "
            f"{stored.name} can't come from them. Convert this checkpoint to GGUF, and name that file."
        )


def _in_stored_order(
    weights: NDArray[np.float32], stored: StoredTensor, content: GgufContent
) -> NDArray[np.float32]:
    is_permuted = content.architecture in PERMUTED and stored.name.endswith(
        ("attn_q.weight", "attn_k.weight")
    )
    if not is_permuted:
        return weights
    num_heads = content.get("attention.head_count")
    if "attn_k" in stored.name:
        num_heads = content.get("attention.head_count_kv") or num_heads
    if type(num_heads) is not int or num_heads < 1 or len(weights) % (2 * num_heads):
        raise ExportError(
            f"{content.name} states {num_heads!r:.40} heads for {stored.name}, which has {len(weights)} "
            f"rows: convert the checkpoint again."
        )
    return pairs_side_by_side(weights, num_heads)


def _differing_share(weights: NDArray[np.float32], stored: NDArray[Any], tensor_type: Any) -> float:
    """The share of stored values that can't come from these weights."""
    if tensor_type in FLOATS:
        return float((weights.astype(FLOATS[tensor_type]) != stored).mean())
    if tensor_type == GGMLQuantizationType.BF16:
        return float((gguf.quants.quantize(weights, tensor_type) != stored).mean())
    return misplaced_share(weights, gguf.quants.dequantize(stored, tensor_type))
