"""Whether factors fit a GGUF file: by its architecture, scaling and geometry, and by the factors."""

import dataclasses

import numpy as np

from ropewalk.errors import ExportError
from ropewalk.export import Served
from ropewalk.export.gguf.file import GgufContent
from ropewalk.factors.geometry import RopeGeometry
from ropewalk.models.gguf_scaling import find_scaling

# The architectures whose graph uses the factor tensors: llama.cpp's src/models, llama-cpp-python 0.3.36.
ARCHITECTURES = ("llama", "mistral3", "granite", "granitemoe", "minicpm", "phi3", "phimoe", "apertus")
WHY_NOT = {
    "pangu-embedded": "llama.cpp loads the factors of this architecture, but does not use them",
    "refact": "this architecture has ALiBi, no rotary position embedding",
    "minicpm3": "its heads are rotated in part, in a way that Ropewalk does not describe",
    "deci": "its layers have different numbers of heads, which Ropewalk does not describe",
    "step35": "its layers have different rotary embeddings, which one set of factors can't describe",
}
LARGEST_DIFFERENCE = 1e-6  # relative, between two attention factors that count as equal


def require_architecture(content: GgufContent) -> None:
    """Refuse an architecture for which llama.cpp ignores factors.

    Raises:
        ExportError: with the reason.
    """
    name = content.architecture
    if name in ARCHITECTURES:
        return
    reason = WHY_NOT.get(name, "llama.cpp reads no rope factors for this architecture")
    raise ExportError(
        f"{content.name} has the architecture {name}, so its factors would be ignored: {reason}. Export a "
        f"model of one of these architectures: {', '.join(ARCHITECTURES)}."
    )


def require_storable(served: Served) -> None:
    """Refuse factors that a GGUF file has no key for.

    Raises:
        ExportError: factors of one layer type, with start tokens, or with two attention factors.
    """
    short, long = served.short, served.long
    if long.geometry.layer_type is not None:
        raise ExportError(
            f"These factors are for the {long.geometry.layer_type} layers alone, but those of a GGUF file "
            f"are for every layer: use `ropewalk export hf`."
        )
    for entry in (short, long):
        if entry.num_start_tokens:
            raise ExportError(
                f"The factors for {entry.target_length} tokens have {entry.num_start_tokens} start tokens "
                f"(n-hat), which a GGUF file can't store: export the factors without start tokens that the "
                f"search wrote beside them, or search with --serve-with llama.cpp."
            )
    if abs(short.attention_factor - long.attention_factor) > LARGEST_DIFFERENCE * long.attention_factor:
        raise ExportError(
            f"The short factors have the attention factor {short.attention_factor:g} and the long factors "
            f"{long.attention_factor:g}, but a GGUF file has one for both: export with --mode pinned, or one "
            f"file per length."
        )


def require_unscaled(content: GgufContent) -> None:
    """Refuse a file with a scaling, which would be lost or would scale a second time.

    Raises:
        ExportError: names the scaling.
    """
    scaling = find_scaling(
        content.architecture,
        (tensor.name for tensor in content.tensors),
        {key: value.plain for key, value in content.metadata.items()},
    )
    if scaling is not None:
        raise ExportError(
            f"{content.name} has a scaling already ({scaling}), but factors need a file without one: convert "
            f"the checkpoint without its scaling."
        )


def require_geometry(content: GgufContent, expected: RopeGeometry, original_length: int | None) -> None:
    """Refuse a file of another geometry than the factors'.

    Args:
        expected: the geometry of the factors.
        original_length: L in tokens, for a file that states a wrong window; None for the file's own.

    Raises:
        ExportError: names what differs.
    """
    lost_its_factors = content.get("rope.scaling.type") == "longrope"
    if (
        original_length is None
        and lost_its_factors
        and content.count("context_length") > expected.original_length
    ):
        original_length = expected.original_length  # llama.cpp's converter wrote the factors' target, not L
    found = gguf_geometry(content, original_length)
    if np.float32(found.rope_theta) == np.float32(expected.rope_theta):  # a GGUF file has theta in float32
        found = dataclasses.replace(found, rope_theta=expected.rope_theta)
    differences = expected.differences(found)
    if differences:
        raise ExportError(
            f"These factors do not fit {content.name}: in the factors {', '.join(differences)} as in the "
            f"file. Search factors for this model, or correct its window with --original-length."
        )


def gguf_geometry(content: GgufContent, original_length: int | None = None) -> RopeGeometry:
    """The geometry of a GGUF file's rotary, with llama.cpp's defaults for missing keys.

    Args:
        original_length: L in tokens; None for the file's context length.

    Raises:
        ExportError: a number is missing, or stated per layer.
    """
    if content.get("attention.key_length") is not None:
        head_dim = content.count("attention.key_length")
    else:
        head_dim = content.count("embedding_length") // content.count("attention.head_count")
    rotary_dim, theta = content.get("rope.dimension_count"), content.get("rope.freq_base")
    return RopeGeometry(
        head_dim=head_dim,
        rotary_dim=head_dim if rotary_dim is None else content.count("rope.dimension_count"),
        rope_theta=10000.0 if theta is None else content.number("rope.freq_base"),
        original_length=original_length or content.count("context_length"),
        num_layers=content.count("block_count"),
    )
