"""Checkpoints of a fine-tuning stage: complete or absent, and checked before they are read.

<stage>/
├── checkpoint-<step>/
│   ├── model.safetensors, config.json, tokenizer ...    a checkpoint as transformers reads it (or an adapter)
│   ├── factors.json                                     the factors that it was trained with
│   ├── optimizer.safetensors, optimizer.json            tensors, and everything else of AdamW
│   ├── scheduler.json, scaler.json, trainer_state.json
│   ├── generators-<rank>.safetensors, .json             of torch, Python and numpy
│   ├── progress.json                                    the place in the text, seconds, tokens
│   └── manifest.json                                    SHA-256 of every other file
└── model/                                               the tuned model, when the stage is complete

This module never reads or writes a pickle. Where several processes hold parts of the weights (FSDP,
DeepSpeed), the optimizer's files are those of the libraries, some of them pickles, which are read only after
their hashes were compared.
"""

import json
import random
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ropewalk import store
from ropewalk.errors import FinetuneError
from ropewalk.finetune.distributed import Ranks
from ropewalk.store import (
    clear_partials,
    differences_from,
    disk_errors,
    envelope,
    hash_files,
    partial_path,
    publish,
    read_document,
    remove_folder,
)

MANIFEST = "manifest.json"
PROGRESS = "progress.json"
FORMAT, FORMAT_VERSION = "ropewalk.checkpoint", 1
# Leftovers of a killed process of the first versions.
OLD_LEFTOVERS = (".partial-*", ".removed-*")
REMEDY = "free some space, and run the stage again to resume from the last checkpoint, which is complete"

# ---------------------------------------------------------------- folders


def checkpoint_name(step: int) -> str:
    """The name of the checkpoint after a step."""
    return f"checkpoint-{step}"


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def complete_checkpoints(stage: Path) -> list[Path]:
    """The complete checkpoints of a stage, the oldest first."""
    found = [
        folder
        for folder in stage.glob("checkpoint-*")
        if folder.name.rpartition("-")[2].isdigit() and (folder / MANIFEST).is_file()
    ]
    return sorted(found, key=step_of)


def clear_leftovers(stage: Path) -> None:
    """Removes what a killed process left half-written or half-removed.

    Raises:
        OSError: something can't be removed.
    """
    for pattern in OLD_LEFTOVERS:
        for folder in stage.glob(pattern):
            shutil.rmtree(folder)
    clear_partials(stage)


def prune(stage: Path, keep: int) -> None:
    """Removes all but the newest `keep` complete checkpoints."""
    for folder in complete_checkpoints(stage)[:-keep]:
        remove_folder(folder)


def saving(
    stage: Path,
    name: str,
    ranks: Ranks,
    *,
    write: Callable[[Path], None],
    write_own: Callable[[Path], None] | None = None,
    manifest: bool = True,
) -> Path:
    """Writes a folder of a stage, complete or not at all; an existing one is replaced.

    Every process calls this, and all of them see the stage's folder.

    Args:
        stage: the stage's folder.
        name: the name of the new folder.
        ranks: the processes of the run.
        write: called by the first process only.
        write_own: called by every process, before that.
        manifest: whether to add a manifest, which makes the folder a checkpoint to resume from.

    Raises:
        FinetuneError: this or another process can't write it.
    """
    folder = stage / name
    partial = partial_path(folder, unique=False)
    try:
        with ranks.together(), training_disk_errors(folder):
            if ranks.is_first:
                partial.mkdir()
        with ranks.together(), training_disk_errors(folder):
            if write_own is not None:
                write_own(partial)
        with ranks.together(), training_disk_errors(folder):
            if ranks.is_first:
                write(partial)
                if manifest:
                    write_manifest(partial)
                publish(partial, folder, replace=True)
    except BaseException:
        if ranks.is_first:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    return folder


def training_disk_errors(path: Path) -> AbstractContextManager[None]:
    """`store.disk_errors` for files of a training, including the error class of safetensors."""
    return disk_errors(path, FinetuneError, remedy=REMEDY, also=(SafetensorError,))


# ---------------------------------------------------------------- the manifest


def write_manifest(folder: Path) -> None:
    """Writes the SHA-256 of every file of a checkpoint."""
    files = hash_files(folder, leave_out=(MANIFEST,))
    write_values(folder / MANIFEST, envelope(FORMAT, FORMAT_VERSION, files=files))


def check_manifest(folder: Path) -> None:
    """Checks a checkpoint before anything of it is read.

    Raises:
        FinetuneError: a file is missing, was added, or has changed.
    """
    remedy = f"remove {folder.name} to resume from the checkpoint before it"
    manifest = read_document(folder / MANIFEST, FinetuneError, file_format=FORMAT, remedy=remedy)
    expected = manifest.get("files")
    if not isinstance(expected, dict):
        raise FinetuneError(f"{folder / MANIFEST} lists no files: {remedy}.")
    for difference in differences_from(folder, expected, leave_out=(MANIFEST,)):
        raise FinetuneError(f"{folder} is damaged ({difference}): {remedy}.")


# ---------------------------------------------------------------- what Trainer would pickle


def write_values(path: Path, value: Any) -> None:
    """Writes JSON values into a folder that is not complete yet."""
    path.write_text(json.dumps(value) + "\n", encoding="utf-8")


def read_values(path: Path) -> Any:
    """The values that `write_values` wrote; `check_manifest` comes first."""
    return store.read_json(path, FinetuneError, remedy="remove its folder", allow_nan=True)


def write_optimizer(folder: Path, optimizer: Any) -> None:
    """Writes tensors to safetensors as `<parameter's number>.<name>`, and everything else to JSON.

    Raises:
        FinetuneError: the optimizer has a value that is neither a tensor nor a JSON value.
    """
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    others: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        others[str(index)] = {}
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value.detach().cpu().contiguous()
            else:
                others[str(index)][name] = value
    rest = {"state": others, "param_groups": state["param_groups"]}
    _require_json(rest, type(optimizer).__name__)
    save_file(tensors, folder / "optimizer.safetensors")
    write_values(folder / "optimizer.json", rest)


def read_optimizer(folder: Path, optimizer: Any) -> None:
    """Loads what `write_optimizer` wrote into an optimizer of the same parameters."""
    rest = read_values(folder / "optimizer.json")
    state: dict[int, dict[str, Any]] = {int(index): dict(entries) for index, entries in rest["state"].items()}
    for key, value in load_file(folder / "optimizer.safetensors").items():
        index, _, name = key.partition(".")
        state[int(index)][name] = value
    optimizer.load_state_dict({"state": state, "param_groups": rest["param_groups"]})


def write_state(path: Path, owner: Any) -> None:
    """Writes the state of a scheduler or a gradient scaler.

    Raises:
        FinetuneError: it has a value that is not a JSON value.
    """
    state = owner.state_dict()
    _require_json(state, type(owner).__name__)
    write_values(path, state)


def _require_json(value: Any, owner: str) -> None:
    try:
        json.dumps(value)
    except TypeError as error:
        raise FinetuneError(
            f"The state of {owner} can't be written without a pickle ({error}): train with adamw_torch and "
            f"one of the schedules of the settings."
        ) from None


def write_generators(folder: Path, rank: int) -> None:
    """Writes the states of this process's global generators of Python, numpy and torch."""
    version, python_state, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    numpy_state["state"]["key"] = numpy_state["state"]["key"].tolist()
    states = {"python": [version, list(python_state), gauss], "numpy": numpy_state}
    write_values(folder / f"generators-{rank}.json", states)
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    save_file(tensors, folder / f"generators-{rank}.safetensors")


def read_generators(folder: Path, rank: int) -> None:
    """Restore the states; a rank without a saved state keeps its own."""
    if not (folder / f"generators-{rank}.json").is_file():
        return
    states = read_values(folder / f"generators-{rank}.json")
    version, python_state, gauss = states["python"]
    random.setstate((version, tuple(python_state), gauss))
    numpy_state = states["numpy"]
    numpy_state["state"]["key"] = np.array(numpy_state["state"]["key"], dtype=np.uint32)
    np.random.set_state(numpy_state)
    tensors = load_file(folder / f"generators-{rank}.safetensors")
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
