"""The weight files of a checkpoint: safetensors files inside its folder, checked before one is read.

An index names a file for each tensor. transformers reads any file that it names, even a pickle or a file in
another folder. Everything that reads weights therefore calls this module, which checks the names first.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ropewalk.errors import ModelError
from ropewalk.store import read_object, reason_of

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("pytorch_model*.bin", "model*.bin", "consolidated*.pth", "model*.pt", "*.ckpt")  # with weights
# Files of a distributed checkpoint, which transformers prefers to `model.safetensors`.
DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
# The name of one file: no folder, drive or pattern.
PLAIN_NAME = re.compile(r"[^/\\:*?\[\]]+\.safetensors")
FLOATS = ("F64", "F32", "F16", "BF16")  # names of safetensors
# Tensors that quantised checkpoints have beside a `weight`, or instead of it.
QUANTISED = (
    ".qweight", ".qzeros", ".weight_packed", ".weight_scale", ".weight_scale_inv", ".weight_absmax",
    ".weight.absmax", ".weight.quant_map", ".SCB", "_proj_blocks", ".codebooks",
)  # fmt: skip


def weight_files(folder: Path, name: str) -> tuple[Path, ...]:
    """The files that transformers reads a checkpoint's weights from.

    Args:
        folder: a checkpoint on this machine.
        name: the model's name in errors.

    Raises:
        ModelError: no safetensors weights, or an index that names anything but safetensors files in `folder`.
    """
    parts = sorted(file.name for file in folder.glob("*.safetensors") if DISTRIBUTED.fullmatch(file.name))
    if parts:
        raise ModelError(
            f"{name} has parts of a distributed checkpoint ({parts[0]}), which Ropewalk does not read: "
            f"save the model with save_pretrained, and name that folder."
        )
    indexed = indexed_files(folder, name)
    if (folder / WEIGHTS).exists():  # transformers prefers it to an index
        return (require_inside(folder, WEIGHTS, name),)
    if indexed is not None:
        return tuple(sorted(set(indexed.values())))
    pickles = sorted(file.name for pattern in PICKLES for file in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"{name} has its weights as a pickle only ({pickles[0]}), and reading a pickle can run any code "
            f"in it: convert it to safetensors."
        )
    others = sorted(file.name for file in folder.glob("*.safetensors"))
    found = f" in transformers' format ({others[0]} is in another)" if others else ""
    raise ModelError(
        f"{name} has no safetensors weights{found}: a {WEIGHTS} or its index is needed beside its "
        f"config.json."
    )


def indexed_files(folder: Path, name: str) -> dict[str, Path] | None:
    """The file of each tensor, by an index; None if there is no index.

    Raises:
        ModelError: an index that can't be read, or names anything but safetensors files in `folder`.
    """
    index = folder / INDEX
    if not index.exists():
        return None
    names = read_index(index, name)
    files = {file: require_inside(folder, file, name) for file in sorted(set(names.values()))}
    return {tensor: files[file] for tensor, file in names.items()}


def read_index(index: Path, name: str) -> dict[str, str]:
    """The file name of each tensor; the files may be missing.

    Raises:
        ModelError: not an index, or one that names anything but `*.safetensors` files in its own folder.
    """
    names = read_object(index, ModelError, remedy="copy it again", allow_nan=True).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ModelError(f"{name} has a {INDEX} without a weight_map of tensors to files: copy it again.")
    for file in names.values():
        if not isinstance(file, str) or not PLAIN_NAME.fullmatch(file) or not file.isprintable():
            raise ModelError(
                f"{name} has a {INDEX} that names {file!r:.100} as a file of weights, but each must be a "
                f"*.safetensors file in the folder itself: pickles and other folders are not read."
            )
    return dict(names)


def stored_tensors(folder: Path, name: str) -> dict[str, Path]:
    """The file of each tensor that a checkpoint stores.

    Raises:
        ModelError: as `weight_files`, or an incomplete file.
    """
    return {tensor: file for file in weight_files(folder, name) for tensor in stored_dtypes(file, name)}


def require_whole(files: Iterable[Path], name: str) -> None:
    """Refuse files that are truncated or not in the safetensors format, by their headers alone.

    Raises:
        ModelError: names the file.
    """
    for file in files:
        stored_dtypes(file, name)


def require_plain_weights(files: Iterable[Path], name: str, config: Any) -> None:
    """Refuse quantised weights, which the configuration states or only the files show.

    How transformers reads them depends on the machine and its packages: it may mix dtypes in one model, or
    download kernels from the hub.

    Args:
        config: the whole transformers configuration, also of a multi-modal model.

    Raises:
        ModelError: names the quantisation; or as `require_whole`.
    """
    kind = stated_quantisation(config) or stored_quantisation(files, name)
    if kind is not None:
        raise ModelError(
            f"{name} is quantised ({kind}), but only weights in float32, bfloat16 or float16 are read here: "
            f"name the model that it was made from or a dequantised copy, and use the factors for both."
        )


def stated_quantisation(config: Any) -> str | None:
    """How a configuration states that its weights are quantised; None if it does not.

    Args:
        config: a transformers configuration, or a `config.json` as read.
    """
    for part in (config, _get(config, "text_config")):
        stated = _get(part, "quantization_config") or _get(part, "compression_config")
        if stated:
            kind = stated if isinstance(stated, str) else _get(stated, "quant_method")
            return f"{getattr(kind, 'value', kind)}"[:40] if kind else "by a method that it does not name"
    return None


def stored_quantisation(files: Iterable[Path], name: str) -> str | None:
    """The first sign in the files that weights are quantised; None if there is none.

    Raises:
        ModelError: as `require_whole`.
    """
    for file in files:
        for tensor, dtype in stored_dtypes(file, name).items():
            if tensor.endswith(QUANTISED):
                return f"it stores {tensor}"
            if dtype.startswith(("F8", "F4", "F6")) or (tensor.endswith(".weight") and dtype not in FLOATS):
                return f"{tensor} is stored as {dtype}"
    return None


def require_inside(folder: Path, file: str, name: str) -> Path:
    """The path of a file in a folder; a link to a file outside the folder is refused.

    Raises:
        ModelError: the file is missing, or such a link.
    """
    path = folder / file
    if not path.is_file():
        raise ModelError(f"{name} lacks the weight file {file}: copy the model again.")
    home, real = folder.resolve(), path.resolve()
    # The hub's cache keeps a snapshot as links to its own blobs.
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else None
    if not real.is_relative_to(home) and real.parent != blobs:
        raise ModelError(
            f"{name} has {file} as a link to {real}, outside the folder, and only files in it are read: copy "
            f"the file there."
        )
    return path


def stored_dtypes(file: Path, name: str = "The model") -> dict[str, str]:
    """Each tensor's dtype, as safetensors names it, from the header of a file.

    Raises:
        ModelError: the file is incomplete: its header must match its size.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            return {tensor: opened.get_slice(tensor).get_dtype() for tensor in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"{name} has {file.name}, which is not a complete safetensors file ({reason_of(error)}): "
            f"copy it again."
        ) from None


def _get(part: Any, key: str) -> Any:
    return part.get(key) if isinstance(part, dict) else getattr(part, key, None)
