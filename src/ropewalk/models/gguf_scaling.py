"""Finds a RoPE scaling in a GGUF file; transformers does not read it from such a file."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ropewalk.errors import ModelError
from ropewalk.models.gguf_header import ARCHITECTURE, read_header

SCALED_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
SCALED_KEYS = ("rope.scale_linear", "rope.scaling.")
UNSCALED_KEYS = ("rope.scaling.original_context_length", "rope.scaling.finetuned")


def find_scaling(architecture: str, tensors: Iterable[str], metadata: Mapping[str, Any]) -> str | None:
    """A description of the first scaling tensor or key; None in a plain file.

    Args:
        metadata: the file's keys and values, text as str.
    """
    for name in tensors:
        if name.endswith(SCALED_TENSORS):
            return f"it has {name}"
    for key, value in metadata.items():
        name = key.removeprefix(f"{architecture}.")
        # llama.cpp's converter writes `longrope` without its tensors when it drops a Llama's factors.
        harmless = name in UNSCALED_KEYS or (name == "rope.scaling.type" and value in ("none", "longrope"))
        if name.startswith(SCALED_KEYS) and not harmless:
            return f"{key} is {value!r:.40}"
    return None


def require_plain(path: Path) -> None:
    """Refuse a file that would be read without its scaling, or that has an invalid header.

    Raises:
        ModelError: names the scaling, or the error in the header.
    """
    header = read_header(path)
    metadata = header.plain()
    names = (tensor.name for tensor in header.tensors)
    scaling = find_scaling(str(metadata.get(ARCHITECTURE)), names, metadata)
    if scaling is not None:
        raise ModelError(
            f"{path} has a RoPE scaling already ({scaling}), which transformers does not read from GGUF: "
            f"name the model that it was made from, and its factors."
        )
