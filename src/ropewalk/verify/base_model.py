"""The base model in the form that an engine reads, and the precision of an export's weights."""

import json
from pathlib import Path

from ropewalk.errors import ModelError
from ropewalk.export.gguf.file import read_gguf
from ropewalk.export.source_checkpoint import find_checkpoint
from ropewalk.models.longrope_config import restore_keys
from ropewalk.models.transformers4_config import CONFIG, read_config_file
from ropewalk.models.weight_files import stated_quantisation


def base_folder(model: str, folder: Path, revision: str | None = None) -> Path:
    """Make a checkpoint of the base model that transformers 4 and 5 read alike.

    It has the same weights, and the model's own scaling in both forms of the configuration.

    Args:
        folder: an empty folder. Its weights are symbolic links to the model's.

    Raises:
        ModelError, ExportError: the model is not a checkpoint for transformers.
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
    """Whether a GGUF file has tensors in another type than float32.

    Raises:
        ExportError: not a GGUF file.
    """
    return _has_other_types(path, ("F32",))


def is_quantised_folder(folder: Path) -> bool:
    """Whether an exported folder states that its weights are quantised (FP8, GPTQ ...).

    Raises:
        ModelError: its configuration can't be read.
    """
    return stated_quantisation(read_config_file(folder / CONFIG)) is not None


def may_be_rounded(path: Path) -> bool:
    """Whether a server may compute an export in less precision than float16: in bfloat16, or quantised.

    llama.cpp computes in the types of a GGUF file. vLLM computes in the type that a folder states, but in
    bfloat16 if it states float32.

    Raises:
        ExportError: not a GGUF file.
        ModelError: a folder's configuration can't be read.
    """
    if path.is_file():
        return _has_other_types(path, ("F32", "F16"))
    config = read_config_file(path / CONFIG)
    stated = str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch.")
    return is_quantised_folder(path) or stated != "float16"


def _has_other_types(path: Path, types: tuple[str, ...]) -> bool:
    return any(tensor.tensor_type.name not in types for tensor in read_gguf(path).tensors)
