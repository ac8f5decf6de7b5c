"""Our attention factor in the weights, for engines that compute one of their own.

An engine multiplies cos and sin by e, where ours is a; so what a rotated query and a rotated key give to an
attention score is e^2 of what it was, and should be a^2. Queries enter the scores linearly, so the rows of
the query weights that are turned are multiplied by (a / e)^2 once and for all:

    q_proj, qkv_proj        the rows (and biases) of the first `rotary_dim` dimensions of each query head
    q_norm after q_proj     its weights instead: a norm forgets how large its input was

Dimensions that are not turned (partial rotary) keep their size. Where within the turned part two dimensions
of one pair lie does not matter, since all are multiplied alike. What no rule of this can know (norms after
the rotary, layers that do not turn, weights that count from 1) is found by measuring: the folded model must
give the original's logits, or it is refused.
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
QUERY_WEIGHTS = ("q_proj", "qkv_proj")  # of the second, queries come first
TENSOR = re.compile(
    rf"(?:^|\.)layers\.(\d+)\.(?:self_attn|attention|attn|self_attention)"
    rf"\.({'|'.join(QUERY_NORMS + QUERY_WEIGHTS)})\.(weight|bias)$"
)
# Of the largest logit: how far a folded model may be from the original. Half precision rounds the products.
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
NUM_CHECKED_TOKENS = 192


@dataclass(frozen=True, kw_only=True)
class Folded:
    """What was folded.

    Attributes:
        ours, engine: the attention factor before, and the one that the folded weights are for.
        logit_difference: largest difference to the original's logits, as a share of the largest logit.
    """

    ours: float
    engine: float
    logit_difference: float

    @property
    def scale(self) -> float:
        """What the turned rows were multiplied by."""
        return (self.ours / self.engine) ** 2


def write_folded(
    checkpoint: Checkpoint,
    geometry: RopeGeometry,
    out: Path,
    *,
    ours: float,
    engine: float,
    copy: bool = False,
) -> None:
    """Write the weight files with the queries multiplied; files without queries are linked (or copied).

    Raises:
        ExportError: no layout of queries that is known here, in every layer.
    """
    chosen = _choose(checkpoint, geometry.num_layers)
    num_heads = int(read_config(checkpoint.folder).get_text_config(decoder=True).num_attention_heads)
    for path in checkpoint.weights:
        if not _write_changed(path, out / path.name, chosen, num_heads, geometry, (ours / engine) ** 2):
            link_or_copy(path, out / path.name, copy=copy)
    checkpoint.take_index(out)


def check_folded(name: str, folder: Path, factors: RescaleFactors, engine: float) -> float:
    """How far the folded model's logits are from the original's, as a share of the largest.

    Args:
        name: the model before.
        folder: the folded checkpoint.
        factors: with our attention factor, as the original is to be served.
        engine: the attention factor of the engine.

    Raises:
        ExportError: they are not equal, so that the fold is wrong for this family.
    """
    theirs = factors.replace(attention_factor=engine)
    wanted, unfolded = _logits(name, factors, theirs)  # one model after the other: they may be large
    (given,) = _logits(str(folder), theirs)
    difference, without = _difference(given, wanted), _difference(unfolded, wanted)
    if difference > min(TOLERANCES[_stored_dtype(folder)], without / 4):
        raise ExportError(
            f"Folding the attention factor does not give {name} the same logits (they differ by "
            f"{difference:.2g} of the largest, without the fold by {without:.2g}), so its queries are not "
            f"made as the fold assumes: leave --fold-attention-factor out, or search with --attention-factor "
            f"longrope."
        )
    return difference


def _choose(checkpoint: Checkpoint, num_layers: int) -> set[str]:
    """The tensors to multiply: in each layer the norm of the queries, or else what makes them."""
    found: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in checkpoint.weights:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                match = TENSOR.search(name)
                if match:
                    found[int(match[1])][match[2]].append(name)
    chosen = set()
    for layer in range(num_layers):
        parts = found[layer]
        part = next((part for part in (*QUERY_NORMS, *QUERY_WEIGHTS) if parts.get(part)), None)
        if part is None:
            raise ExportError(
                f"The attention factor can't be folded into {checkpoint.name}: layer {layer} has no query "
                f"weights of a layout that is known here ({', '.join(QUERY_WEIGHTS)}). Leave "
                f"--fold-attention-factor out, or search with --attention-factor longrope."
            )
        chosen.update(parts[part])
    return chosen


def _write_changed(
    path: Path, target: Path, chosen: set[str], num_heads: int, geometry: RopeGeometry, scale: float
) -> bool:
    """Whether the file holds any of the chosen tensors, and so was written with these multiplied."""
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
    """The tensor with the turned dimensions of its query heads multiplied."""
    if tensor.dtype not in TOLERANCES:
        raise ExportError(
            f"The attention factor can't be folded into {name}, whose values are {tensor.dtype}: fold it "
            f"into the weights before they are quantised."
        )
    part, head_dim, rotary_dim = TENSOR.search(name)[2], geometry.head_dim, geometry.rotary_dim  # type: ignore[index]
    changed = tensor.to(torch.float64)  # a copy, or the tensor itself
    changed = changed.clone() if changed is tensor else changed
    rows = changed if part in QUERY_NORMS else changed[: num_heads * head_dim]
    if rows.numel() % head_dim or (part == "q_proj" and len(rows) != num_heads * head_dim):
        raise ExportError(
            f"The attention factor can't be folded into {name} of shape {tuple(tensor.shape)}: it is not "
            f"made of {num_heads} heads of {head_dim} dimensions."
        )
    if part in QUERY_NORMS:
        rows.view(-1, head_dim)[:, :rotary_dim] *= scale
    else:
        rows.view(num_heads, head_dim, -1)[:, :rotary_dim] *= scale
    return changed.to(tensor.dtype)


def _logits(name: str, *choices: RescaleFactors) -> list[Tensor]:
    """The logits of one text of random tokens under each of some factors."""
    loaded = load_model(name, original_length=choices[0].geometry.original_length)
    vocabulary = loaded.model.config.get_text_config(decoder=True).vocab_size
    ids = torch.randint(vocabulary, (1, NUM_CHECKED_TOKENS), generator=torch.Generator().manual_seed(0))
    logits = []
    for factors in choices:
        with loaded.using(factors), evaluating(loaded.model):
            reader = Reader(loaded.model)
            logits.append(reader.logits(reader.read(ids, keep=False)[0]))
    return logits


def _difference(given: Tensor, wanted: Tensor) -> float:
    return float((given - wanted).abs().max() / wanted.abs().max())


def _stored_dtype(folder: Path) -> torch.dtype:
    """The coarsest dtype among the tensors that a fold may change."""
    dtypes = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            dtypes |= {file.get_tensor(name).dtype for name in file.keys() if TENSOR.search(name)}  # noqa: SIM118
    coarsest: torch.dtype = max(dtypes, key=lambda dtype: TOLERANCES.get(dtype, 0.0))
    return coarsest
