"""The untouched model in the form that an engine reads, to be compared with on equal terms."""

import json
from pathlib import Path

from ropewalk.errors import ModelError
from ropewalk.export.gguf.file import read_gguf
from ropewalk.export.source_checkpoint import find_checkpoint
from ropewalk.models.longrope_config import restore_keys
from ropewalk.models.transformers4_config import CONFIG, read_config_file
from ropewalk.models.weight_files import stated_quantisation


def base_folder(model: str, folder: Path, revision: str | None = None) -> Path:
    """A checkpoint that transformers 4 and 5 read alike: the same weights, its own scaling in both forms.

    Args:
        folder: an empty one, which goes before the model does: its weights are symbolic links.

    Raises:
        ModelError, ExportError: no checkpoint for transformers.
    """
    checkpoint = find_checkpoint(model, revision)
    checkpoint.require_whole()
    checkpoint.take_along(folder)
    for path in checkpoint.weights:
        (folder / path.name).symlink_to(path.resolve())
    checkpoint.take_index(folder)
    try:
        config = restore_keys(checkpoint.config)
    except ModelError:
        config = checkpoint.config
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    return folder


def is_quantised_gguf(path: Path) -> bool:
    """Whether a GGUF file holds anything else than float32.

    Raises:
        ExportError: no GGUF file that can be read.
    """
    return any(tensor.tensor_type.name != "F32" for tensor in read_gguf(path).tensors)


def is_quantised_folder(folder: Path) -> bool:
    """Whether an exported folder states that its weights are quantised (FP8, GPTQ ...).

    Raises:
        ModelError: no configuration that can be read.
    """
    return stated_quantisation(read_config_file(folder / CONFIG)) is not None


def may_be_rounded(path: Path) -> bool:
    """Whether a server may compute an export in something coarser than float16: bfloat16, or quantised.

    llama.cpp computes what a GGUF file holds. vLLM believes what a folder states, but takes bfloat16 for
    float32.

    Raises:
        ExportError: no GGUF file that can be read.
        ModelError: no configuration that can be read.
    """
    if path.is_file():
        return any(tensor.tensor_type.name not in ("F32", "F16") for tensor in read_gguf(path).tensors)
    config = read_config_file(path / CONFIG)
    stated = str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch.")
    return is_quantised_folder(path) or stated != "float16"
