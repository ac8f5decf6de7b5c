"""A GGUF file with factors in it, which llama.cpp turns by.

What is added to a file of the same weights, and nothing else is touched:

    rope_factors_short.weight, rope_factors_long.weight   lambda, float32, shape (num_pairs,)
    {arch}.rope.scaling.type                              longrope
    {arch}.rope.scaling.original_context_length           L
    {arch}.rope.scaling.attn_factor                       multiplies cos and sin, of both sets
    {arch}.context_length                                 L', where it was L
    ropewalk.*                                            where the factors come from

`{arch}.rope.scaling.factor` is never written: beside longrope, llama.cpp would scale a second time. The set
is chosen once, as a context is made: long where the context of a sequence exceeds L. llama.cpp rounds that
context up to a multiple of 256 first.

Its converter drops the factors of all but Phi and MiniCPM without a word (benchmarks/gguf_converter.py): what
it makes of a checkpoint that is tuned with them is as good a start as any other file of the same weights.
"""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np

from ropewalk import __version__
from ropewalk.errors import ExportError
from ropewalk.export import MODES, Dropped, EngineNote, Exported, Mode, Served
from ropewalk.export.gguf.file import (
    GgufContent,
    StoredTensor,
    Value,
    number,
    read_gguf,
    text,
    whole,
    write_gguf,
)
from ropewalk.export.gguf.llama import read_llama_checkpoint
from ropewalk.export.gguf.weights import require_same_weights
from ropewalk.export.output import new_file, require_absent
from ropewalk.export.source_checkpoint import find_checkpoint
from ropewalk.factors.factor_set import FactorSet
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.models.gguf_scaling import find_scaling
from ropewalk.models.scale_model import SCALE_MODEL, scale_model_path
from ropewalk.store import hash_file

# Those whose graph turns by the factor tensors, in llama.cpp's src/models as of llama-cpp-python 0.3.36.
ARCHITECTURES = ("llama", "mistral3", "granite", "granitemoe", "minicpm", "phi3", "phimoe", "apertus")
WHY_NOT = {
    "pangu-embedded": "llama.cpp loads the factors of this architecture and then turns without them",
    "refact": "this architecture has ALiBi, no rotary position embedding",
    "minicpm3": "only some of each head is rotated, in a way that is not described here",
    "deci": "its layers have different numbers of heads, which is not described here",
    "step35": "its layers have different rotary embeddings, which one set of factors can't describe",
}
CONTEXT_STEP = 256  # llama.cpp rounds the context of a sequence up to a multiple of this
LARGEST_DIFFERENCE = 1e-6  # between two attention factors that count as one


def export_gguf(
    source: str | Path,
    factor_set: FactorSet,
    out: Path,
    *,
    mode: Mode = "pinned",
    base: Path | None = None,
    original_length: int | None = None,
) -> Exported:
    """Write a GGUF file that llama.cpp serves with these factors.

    Args:
        source: a GGUF of the weights that the factors are for; or a checkpoint's folder, which with `base` is
            only compared, and without it is written whole (Llama; float32).
        out: a new file.
        mode: `pinned` puts the longest entry's factors at every length; `switching` those of the entry for
            the window up to the window, which needs one attention factor for both.
        base: a GGUF of `source`'s weights; a few tensors are compared.
        original_length: L in tokens, where the file states a wrong window.

    Raises:
        ExportError: factors that a GGUF can't hold; an architecture whose runtime reads none; a file that is
            truncated, of another geometry, already scaled or of other weights; `out` exists.
        OSError: it can't be written.
    """
    require_absent(out)
    served = Served.of(factor_set, mode)
    _require_holdable(served)
    content = _content(_place(source), base)
    require_architecture(content)
    _require_unscaled(content)
    _require_geometry(content, served.geometry, original_length)
    if not _is_gguf(source):
        find_checkpoint(str(source)).warn_if_other_weights(served.long)
    with new_file(out) as path:
        write_gguf(with_factors(content, served, factor_set), path)
    return Exported(
        path=out,
        target="gguf",
        served=served,
        engines=_notes(served),
        dropped=tuple(
            Dropped(what=f"the entry for {entry.target_length} tokens") for entry in served.left_out
        ),
        files={out.name: hash_file(out)},
    )


def require_architecture(content: GgufContent) -> None:
    """Refuse a model that llama.cpp would turn without the factors.

    Raises:
        ExportError: with the reason.
    """
    name = content.architecture
    if name in ARCHITECTURES:
        return
    reason = WHY_NOT.get(name, "llama.cpp reads no rope factors for this architecture")
    raise ExportError(
        f"{content.name} is of the architecture {name}, but its factors would be ignored: {reason}; those "
        f"that can be written are {', '.join(ARCHITECTURES)}."
    )


def with_factors(content: GgufContent, served: Served, factor_set: FactorSet) -> GgufContent:
    """The same with the factors, the keys that go with them, and where they come from."""
    prefix = content.architecture
    keys = {
        f"{prefix}.context_length": whole(served.long.target_length),
        f"{prefix}.rope.scaling.type": text("longrope"),
        f"{prefix}.rope.scaling.original_context_length": whole(served.geometry.original_length),
        f"{prefix}.rope.scaling.attn_factor": number(served.long.attention_factor),
    }
    tensors = (
        StoredTensor.of("rope_factors_long.weight", np.array(served.long.rescale_factors[0], np.float32)),
        StoredTensor.of("rope_factors_short.weight", np.array(served.short.rescale_factors[0], np.float32)),
    )
    return dataclasses.replace(
        content,
        metadata={**content.metadata, **keys, **_provenance(served, factor_set)},
        tensors=(*content.tensors, *tensors),
    )


def largest_short_context(original_length: int) -> int:
    """The largest context of a sequence at which llama.cpp takes the short factors; 0 if there is none."""
    return original_length // CONTEXT_STEP * CONTEXT_STEP


def write_base_gguf(source: str | Path, out: Path) -> None:
    """A Llama checkpoint as a GGUF file without any factors, in float32.

    Raises:
        ExportError: as `read_llama_checkpoint`; `out` exists.
        OSError: it can't be written.
    """
    require_absent(out)
    content = read_llama_checkpoint(_place(source))
    with new_file(out) as path:
        write_gguf(content, path)


def read_mode(path: Path) -> Mode | None:
    """What an exported file says of its mode; None where it does not.

    Raises:
        ExportError: no GGUF file.
    """
    found = read_gguf(path).metadata.get("ropewalk.mode")
    return next((mode for mode in MODES if found is not None and mode == found.plain), None)


def _place(source: str | Path) -> Path:
    return scale_model_path() if str(source) == SCALE_MODEL else Path(source)


def _is_gguf(source: str | Path) -> bool:
    return Path(source).suffix.lower() == ".gguf"


def _content(source: Path, base: Path | None) -> GgufContent:
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
    _count(content, "block_count")
    require_same_weights(source, content)
    return content


def _require_holdable(served: Served) -> None:
    short, long = served.short, served.long
    for entry in (short, long):
        if entry.num_start_tokens:
            raise ExportError(
                f"The factors for {entry.target_length} tokens have n-hat {entry.num_start_tokens}, which no "
                f"GGUF can hold: export the factors without start tokens that the search wrote beside them, "
                f"or search with --serve-with llama.cpp."
            )
    if abs(short.attention_factor - long.attention_factor) > LARGEST_DIFFERENCE * long.attention_factor:
        raise ExportError(
            f"The short factors have the attention factor {short.attention_factor:g} and the long ones "
            f"{long.attention_factor:g}, but a GGUF has one for both: export with --mode pinned, or a "
            f"file for each length."
        )


def _require_unscaled(content: GgufContent) -> None:
    """Whatever scales already would be lost, or scale a second time."""
    scaling = find_scaling(
        content.architecture,
        (tensor.name for tensor in content.tensors),
        {key: value.plain for key, value in content.metadata.items()},
    )
    if scaling is not None:
        raise ExportError(
            f"{content.name} is scaled already ({scaling}), but factors go into a plain one: convert the "
            f"checkpoint without its scaling."
        )


def _require_geometry(content: GgufContent, wanted: RopeGeometry, original_length: int | None) -> None:
    """Refuse a file that these factors were not made for."""
    lost_its_factors = content.get("rope.scaling.type") == "longrope"
    if (
        original_length is None
        and lost_its_factors
        and _count(content, "context_length") > wanted.original_length
    ):
        original_length = wanted.original_length  # the converter wrote how far the factors reached, not L
    found = gguf_geometry(content, original_length)
    # A GGUF keeps theta in float32.
    if np.float32(found.rope_theta) == np.float32(wanted.rope_theta):
        found = dataclasses.replace(found, rope_theta=wanted.rope_theta)
    differences = wanted.differences(found)
    if differences:
        raise ExportError(
            f"These factors do not fit {content.name}: in the factors {', '.join(differences)} as in the "
            f"file; search factors for this model, or correct its window with --original-length."
        )


def gguf_geometry(content: GgufContent, original_length: int | None = None) -> RopeGeometry:
    """What a GGUF says of its rotary, with llama.cpp's own defaults.

    Raises:
        ExportError: a number is missing, or there is one a layer.
    """
    if content.get("attention.key_length") is not None:
        head_dim = _count(content, "attention.key_length")
    else:
        head_dim = _count(content, "embedding_length") // _count(content, "attention.head_count")
    rotary_dim = content.get("rope.dimension_count")
    theta = content.get("rope.freq_base")
    return RopeGeometry(
        head_dim=head_dim,
        rotary_dim=head_dim if rotary_dim is None else _count(content, "rope.dimension_count"),
        rope_theta=10000.0 if theta is None else _number(content, "rope.freq_base"),
        original_length=original_length or _count(content, "context_length"),
        num_layers=_count(content, "block_count"),
    )


def _count(content: GgufContent, key: str) -> int:
    found = content.get(key)
    if type(found) is not int or found < 1:
        raise ExportError(
            f"{content.name} has {found!r:.40} as {content.architecture}.{key}, but must have a number above "
            f"0: convert the checkpoint again."
        )
    return found


def _number(content: GgufContent, key: str) -> float:
    found = content.get(key)
    if type(found) not in (int, float):
        raise ExportError(
            f"{content.name} has {found!r:.40} as {content.architecture}.{key}, but must have a number: "
            f"convert the checkpoint again."
        )
    return float(found)


def _provenance(served: Served, factor_set: FactorSet) -> dict[str, Value]:
    made = served.long.provenance
    said = {
        "version": __version__,
        "mode": served.mode,
        "factors_sha256": hashlib.sha256(factor_set.to_json().encode()).hexdigest(),
        "geometry_fingerprint": served.geometry.fingerprint(),
        "strategy": made.strategy,
        "model": made.model,
        "weights_sha256": made.weights_sha256,
    }
    return {f"ropewalk.{name}": text(value) for name, value in said.items() if value}


def _notes(served: Served) -> tuple[EngineNote, ...]:
    """Which engines turn by these factors, and what they must be told."""
    window, target = served.geometry.original_length, served.long.target_length
    flags = f"-c {target}, times the number of --parallel requests"
    if served.mode == "switching":
        short = largest_short_context(window)
        below = f"up to {short} takes the short factors" if short else "never takes the short factors"
        flags += f"; a context of a sequence {below}, a larger one the long"
    return (
        EngineNote(engine="llama.cpp", is_served=True, what=flags),
        EngineNote(
            engine="transformers",
            is_served=False,
            what="it ignores the factors of a GGUF file: use `export hf`",
        ),
    )
