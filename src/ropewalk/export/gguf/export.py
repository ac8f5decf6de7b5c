"""A GGUF file with factors, as llama.cpp reads it.

The file differs from one of the same weights by these entries alone:

    rope_factors_short.weight, rope_factors_long.weight   lambda, float32, shape (num_pairs,)
    {arch}.rope.scaling.type                              longrope
    {arch}.rope.scaling.original_context_length           L
    {arch}.rope.scaling.attn_factor                       multiplies cos and sin, for both sets
    {arch}.context_length                                 L' instead of L
    ropewalk.*                                            how the factors were made

`{arch}.rope.scaling.factor` is never written, because llama.cpp would scale a second time. llama.cpp chooses
the set once, when it creates a context: the long set if the context of a sequence exceeds L. It first rounds
that context up to a multiple of 256.

llama.cpp's own converter drops the factors of all architectures but Phi and MiniCPM, without a message
(benchmarks/gguf_converter.py). `export_gguf` adds them to the file that it made from a tuned checkpoint.
"""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np

from ropewalk import __version__
from ropewalk.errors import ExportError
from ropewalk.export import EXPORT_MODES, Dropped, EngineNote, Exported, ExportMode, Served, entry_name
from ropewalk.export.gguf.compatibility import (
    require_architecture,
    require_geometry,
    require_storable,
    require_unscaled,
)
from ropewalk.export.gguf.file import GgufContent, StoredTensor, Value, read_gguf, write_gguf
from ropewalk.export.gguf.llama_checkpoint import read_llama_checkpoint
from ropewalk.export.gguf.same_weights import require_same_weights
from ropewalk.export.manifest import require_unfolded
from ropewalk.export.output import new_file, require_absent
from ropewalk.export.source_checkpoint import find_checkpoint
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.rescale_factors import RescaleFactors
from ropewalk.models.scale_model import SCALE_MODEL, scale_model_path
from ropewalk.store import hash_file

CONTEXT_STEP = 256  # llama.cpp rounds the context of a sequence up to a multiple of this, in tokens


def export_gguf(
    source: str | Path,
    factor_set: FactorSet,
    out: Path,
    *,
    mode: ExportMode = "pinned",
    base: Path | None = None,
    original_length: int | None = None,
) -> Exported:
    """Write a GGUF file that llama.cpp serves with these factors.

    Args:
        source: a GGUF file of the weights that the factors are for, or a checkpoint's folder. With `base` the
            folder is only compared with it; without `base` its weights are written in float32 (Llama only).
        out: a new file.
        mode: `pinned` uses the longest entry's factors at every length. `switching` uses the entry for the
            window up to the window, and needs one attention factor for both entries.
        base: a GGUF file of `source`'s weights; a few tensors are compared.
        original_length: L in tokens, for a file that states a wrong window.

    Raises:
        ExportError: the factors can't be stored in a GGUF file; llama.cpp ignores them for this architecture;
            the file is truncated, has another geometry, a scaling or other weights; or `out` exists.
        OSError: the file can't be written.
    """
    require_absent(out)
    served = Served.of(factor_set, mode)
    require_storable(served)
    require_unfolded(_local_path(source))
    content = _read_source(_local_path(source), base)
    require_architecture(content)
    require_unscaled(content)
    require_geometry(content, served.geometry, original_length)
    if not _is_gguf(source):
        find_checkpoint(str(source)).warn_if_other_weights(served.long)
    with new_file(out) as path:
        write_gguf(with_factors(content, served, factor_set), path)
    return Exported(
        path=out,
        target="gguf",
        served=served,
        engines=_engine_notes(served),
        dropped=tuple(Dropped(what=entry_name(entry)) for entry in served.left_out),
        files={out.name: hash_file(out)},
    )


def write_base_gguf(source: str | Path, out: Path) -> None:
    """Write a Llama checkpoint as a GGUF file without factors, in float32.

    Raises:
        ExportError: as `read_llama_checkpoint`, or `out` exists.
        OSError: the file can't be written.
    """
    require_absent(out)
    content = read_llama_checkpoint(_local_path(source))
    with new_file(out) as path:
        write_gguf(content, path)


def with_factors(content: GgufContent, served: Served, factor_set: FactorSet) -> GgufContent:
    """The same content with the factors, the keys that belong to them, and how they were made."""
    prefix = content.architecture
    keys = {
        f"{prefix}.context_length": Value.uint32(served.long.target_length),
        f"{prefix}.rope.scaling.type": Value.string("longrope"),
        f"{prefix}.rope.scaling.original_context_length": Value.uint32(served.geometry.original_length),
        f"{prefix}.rope.scaling.attn_factor": Value.float32(served.long.attention_factor),
    }
    return dataclasses.replace(
        content,
        metadata={**content.metadata, **keys, **_provenance(served, factor_set)},
        tensors=(
            *content.tensors,
            _factor_tensor("rope_factors_long.weight", served.long),
            _factor_tensor("rope_factors_short.weight", served.short),
        ),
    )


def largest_short_context(original_length: int) -> int:
    """The largest context of a sequence for which llama.cpp uses the short factors, in tokens; 0 for none."""
    return original_length // CONTEXT_STEP * CONTEXT_STEP


def read_gguf_mode(path: Path) -> ExportMode | None:
    """The mode that an exported file states; None if it states none.

    Raises:
        ExportError: not a GGUF file.
    """
    found = read_gguf(path).metadata.get("ropewalk.mode")
    return next((mode for mode in EXPORT_MODES if found is not None and mode == found.plain), None)


def _local_path(source: str | Path) -> Path:
    return scale_model_path() if str(source) == SCALE_MODEL else Path(source)


def _is_gguf(source: str | Path) -> bool:
    return Path(source).suffix.lower() == ".gguf"


def _read_source(source: Path, base: Path | None) -> GgufContent:
    if _is_gguf(source):
        if base is not None:
            raise ExportError(
                f"{source} is a GGUF file itself, but --gguf names another: name the checkpoint that it was "
                f"converted from, or leave --gguf out."
            )
        return read_gguf(source)
    if base is None:
        return read_llama_checkpoint(source)
    content = read_gguf(base)
    require_architecture(content)
    require_same_weights(source, content)
    return content


def _factor_tensor(name: str, factors: RescaleFactors) -> StoredTensor:
    values = np.array(factors.rescale_factors[0], np.float32)
    return StoredTensor.float32(name, values.shape, lambda: values)


def _provenance(served: Served, factor_set: FactorSet) -> dict[str, Value]:
    made = served.long.provenance
    facts = {
        "version": __version__,
        "mode": served.mode,
        "factors_sha256": hashlib.sha256(factor_set.to_json().encode()).hexdigest(),
        "geometry_fingerprint": served.geometry.fingerprint(),
        "strategy": made.strategy,
        "model": made.model,
        "weights_sha256": made.weights_sha256,
    }
    return {f"ropewalk.{name}": Value.string(fact) for name, fact in facts.items() if fact}


def _engine_notes(served: Served) -> tuple[EngineNote, ...]:
    """Which engines use these factors, and with which flags."""
    window, target = served.geometry.original_length, served.long.target_length
    flags = f"-c {target}, times the number of --parallel requests"
    if served.mode == "switching":
        short = largest_short_context(window)
        below = f"up to {short} tokens uses" if short else "never uses"
        flags += f"; a context of a sequence {below} the short factors, a larger one the long factors"
    return (
        EngineNote(engine="llama.cpp", is_served=True, what=flags),
        EngineNote(
            engine="transformers",
            is_served=False,
            what="it ignores the factors of a GGUF file: use `ropewalk export hf`",
        ),
    )
