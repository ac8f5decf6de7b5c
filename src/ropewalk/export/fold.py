"""The attention factor folded into the weights, for engines that compute another one.

An engine multiplies cos and sin by e, but the factors are made for a. The rotated part of an attention score
is then multiplied by e^2 instead of a^2. A score is linear in the query, so the rotated rows of the query
weights are multiplied by (a / e)^2:

    q_proj, qkv_proj        the rows (and biases) of the first `rotary_dim` dimensions of each query head
    q_norm after q_proj     the norm's weights instead, because a norm removes the scale of its input

Dimensions that are not rotated (partial rotary) keep their scale. The order of a pair's dimensions does not
matter, because all are multiplied alike. Some models need other rules (norms after the rotary, layers without
rotary, norm weights stored as w - 1). Therefore the logits are compared: a folded model whose logits differ
from the original's is refused.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ropewalk.errors import ExportError
from ropewalk.evaluate.lm_head import Reader, evaluating
from ropewalk.export.source_checkpoint import Checkpoint
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.model import load_model
from ropewalk.models.model_files import read_config
from ropewalk.store import link_or_copy

QUERY_NORMS = ("q_norm", "q_layernorm", "query_layernorm")
QUERY_WEIGHTS = ("q_proj", "qkv_proj")  # qkv_proj has the queries first
TENSOR = re.compile(
    rf"(?:^|\.)layers\.(\d+)\.(?:self_attn|attention|attn|self_attention)"
    rf"\.({'|'.join(QUERY_NORMS + QUERY_WEIGHTS)})\.(weight|bias)$"
)
# The largest difference between the logits of folded and original model, as a share of the largest logit.
# Half precision rounds the products.
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
NUM_CHECKED_TOKENS = 192


@dataclass(frozen=True, kw_only=True)
class Folded:
    """The result of a fold.

    Attributes:
        ours: the attention factor of the factors.
        engine: the attention factor that engines compute.
        logit_difference: the largest difference from the original's logits, as a share of the largest logit.
    """

    ours: float
    engine: float
    logit_difference: float

    @property
    def scale(self) -> float:
        """The factor of the rotated rows."""
        return (self.ours / self.engine) ** 2


def not_foldable(reason: str) -> ExportError:
    """The error for an attention factor that can't be folded into the weights."""
    return ExportError(
        f"The attention factor can't be folded into the weights, because {reason}: search with "
        f"--attention-factor longrope, or export for an engine that reads it (--serve-with transformers or "
        f"vllm)."
    )


def write_folded(
    checkpoint: Checkpoint,
    geometry: RopeGeometry,
    out: Path,
    *,
    ours: float,
    engine: float,
    copy: bool = False,
) -> None:
    """Write the weight files with scaled queries. Files without queries are linked, or copied.

    Args:
        ours, engine: as in `Folded`.
        copy: copy files instead of linking them.

    Raises:
        ExportError: a layer has no query weights of a known layout.
    """
    chosen = _query_tensors(checkpoint, geometry.num_layers)
    num_heads = int(read_config(checkpoint.folder).get_text_config(decoder=True).num_attention_heads)
    for path in checkpoint.weights:
        if not _write_scaled(path, out / path.name, chosen, num_heads, geometry, (ours / engine) ** 2):
            link_or_copy(path, out / path.name, copy=copy)
    checkpoint.take_index(out)


def check_folded(name: str, folder: Path, factors: RescaleFactors, engine: float) -> float:
    """Compare the logits of the folded model with those of the original.

    Args:
        name: the original model.
        folder: the folded checkpoint.
        factors: the factors with their own attention factor, for the original.
        engine: the attention factor of the engine, for the folded model.

    Returns:
        The largest difference, as a share of the largest logit.

    Raises:
        ExportError: the logits differ, so the fold is wrong for this family.
    """
    engine_factors = factors.replace(attention_factor=engine)
    expected, unfolded = _logits(name, factors, engine_factors)  # before the folded model is in memory
    (folded,) = _logits(str(folder), engine_factors)
    difference, without = _difference(folded, expected), _difference(unfolded, expected)
    if difference > min(TOLERANCES[_stored_dtype(folder)], without / 4):
        raise not_foldable(
            f"this changes the logits of {name} (by {difference:.2g} of the largest; without the fold by "
            f"{without:.2g}), which computes its queries in another way"
        )
    return difference


def _query_tensors(checkpoint: Checkpoint, num_layers: int) -> set[str]:
    """The tensors to scale: in each layer the norm of the queries or, without one, their projection."""
    found: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in checkpoint.weights:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                match = TENSOR.search(name)
                if match:
                    found[int(match[1])][match[2]].append(name)
    chosen = set()
    for layer in range(num_layers):
        parts = found[layer]
        part = next((part for part in (*QUERY_NORMS, *QUERY_WEIGHTS) if parts.get(part)), None)
        if part is None:
            raise not_foldable(
                f"layer {layer} of {checkpoint.name} has no query weights named {' or '.join(QUERY_WEIGHTS)}"
            )
        chosen.update(parts[part])
    return chosen


def _write_scaled(
    path: Path, target: Path, chosen: set[str], num_heads: int, geometry: RopeGeometry, scale: float
) -> bool:
    """Write a file with the chosen tensors scaled. Returns whether it has any; else nothing is written."""
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        if not chosen.intersection(names):
            return False
        tensors = {name: file.get_tensor(name) for name in names}
        metadata = file.metadata()
    for name in chosen.intersection(names):
        tensors[name] = _scaled(tensors[name], name, num_heads, geometry, scale)
    save_file(tensors, target, metadata=metadata)
    return True


def _scaled(tensor: Tensor, name: str, num_heads: int, geometry: RopeGeometry, scale: float) -> Tensor:
    """The tensor with the rotated dimensions of its query heads scaled."""
    if tensor.dtype not in TOLERANCES:
        raise not_foldable(f"{name} has the type {tensor.dtype}, not a float of 16 or 32 bits")
    part, head_dim, rotary_dim = TENSOR.search(name)[2], geometry.head_dim, geometry.rotary_dim  # type: ignore[index]
    changed = tensor.to(torch.float64)  # a copy, or the tensor itself
    changed = changed.clone() if changed is tensor else changed
    rows = changed if part in QUERY_NORMS else changed[: num_heads * head_dim]
    if rows.numel() % head_dim or (part == "q_proj" and len(rows) != num_heads * head_dim):
        raise not_foldable(
            f"{name} of shape {tuple(tensor.shape)} does not have {num_heads} heads of {head_dim} dimensions"
        )
    if part in QUERY_NORMS:
        rows.view(-1, head_dim)[:, :rotary_dim] *= scale
    else:
        rows.view(num_heads, head_dim, -1)[:, :rotary_dim] *= scale
    return changed.to(tensor.dtype)


def _logits(name: str, *choices: RescaleFactors) -> list[Tensor]:
    """The logits of random tokens with each of the factors."""
    loaded = load_model(name, original_length=choices[0].geometry.original_length)
    vocabulary = loaded.model.config.get_text_config(decoder=True).vocab_size
    ids = torch.randint(vocabulary, (1, NUM_CHECKED_TOKENS), generator=torch.Generator().manual_seed(0))
    logits = []
    for factors in choices:
        with loaded.using(factors), evaluating(loaded.model):
            reader = Reader(loaded.model)
            logits.append(reader.logits(reader.read(ids, keep=False)[0]))
    return logits


def _difference(given: Tensor, expected: Tensor) -> float:
    return float((given - expected).abs().max() / expected.abs().max())


def _stored_dtype(folder: Path) -> torch.dtype:
    """The least precise dtype of the tensors that a fold may change."""
    dtypes = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            dtypes |= {file.get_tensor(name).dtype for name in file.keys() if TENSOR.search(name)}  # noqa: SIM118
    coarsest: torch.dtype = max(dtypes, key=lambda dtype: TOLERANCES.get(dtype, 0.0))
    return coarsest
