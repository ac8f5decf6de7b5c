"""A stage's checkpoints: folders that are there whole or not at all, and are checked before they are read.

<stage>/
├── checkpoint-<step>/
│   ├── model.safetensors, config.json, tokenizer ...    a checkpoint as transformers reads it (or an adapter)
│   ├── factors.json                                     what its positions are turned by
│   ├── optimizer.safetensors, optimizer.json            tensors, and everything else of AdamW
│   ├── scheduler.json, scaler.json, trainer_state.json
│   ├── generators-<rank>.safetensors, .json             torch's, and those of Python and numpy
│   ├── progress.json                                    the place in the text, seconds, tokens
│   └── manifest.json                                    SHA-256 of every other file, written last
└── model/                                               the tuned model, when the stage is done

A checkpoint is written into a hidden folder, brought to the disk, and then renamed. Nothing here reads or
writes a pickle. Where weights lie in parts on several processes (FSDP, DeepSpeed), the libraries' own files,
pickles among them, stand in place of the optimizer's and are read only after their hashes were found right.
"""

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ropewalk.errors import FinetuneError
from ropewalk.finetune.distributed import Ranks
from ropewalk.store import bring_to_disk, clear_partials, follow_umask, read_bounded
from ropewalk.strict_json import JsonError, parse_json

MANIFEST = "manifest.json"
PROGRESS = "progress.json"
PARTIAL, REMOVED = ".partial-", ".removed-"
FORMAT, FORMAT_VERSION = "ropewalk.checkpoint", 1
CHUNK_BYTES = 2**20
LARGEST_JSON_BYTES = 2**28

# ---------------------------------------------------------------- folders, whole or not at all


def checkpoint_name(step: int) -> str:
    """The folder of the checkpoint after that step."""
    return f"checkpoint-{step}"


def step_of(checkpoint: Path) -> int:
    """After which step a checkpoint was written."""
    return int(checkpoint.name.rpartition("-")[2])


def complete_checkpoints(stage: Path) -> list[Path]:
    """Those that were finished, the oldest first."""
    found = [
        folder
        for folder in stage.glob("checkpoint-*")
        if folder.name.rpartition("-")[2].isdigit() and (folder / MANIFEST).is_file()
    ]
    return sorted(found, key=step_of)


def clear_leftovers(stage: Path) -> None:
    """Take away what a killed process left half-written, or half-removed."""
    for pattern in (PARTIAL, REMOVED):
        for folder in stage.glob(f"{pattern}*"):
            shutil.rmtree(folder)
    clear_partials(stage)


def partial_folder(stage: Path, name: str) -> Path:
    """Where a folder is until it has its name."""
    return stage / f"{PARTIAL}{name}"


def publish(stage: Path, name: str) -> Path:
    """Give a partial folder its name, once all of it is on the disk; one of that name makes way."""
    partial, folder = partial_folder(stage, name), stage / name
    write_manifest(partial)
    follow_umask(partial)
    for file in sorted(partial.rglob("*")):
        bring_to_disk(file)
    bring_to_disk(partial)
    if folder.exists():
        _remove(folder)
    partial.rename(folder)
    bring_to_disk(stage)
    return folder


def prune(stage: Path, keep: int) -> None:
    """Remove all but the newest `keep` complete checkpoints."""
    for folder in complete_checkpoints(stage)[:-keep]:
        _remove(folder)


def _remove(folder: Path) -> None:
    """Out of sight first, so that a half-removed folder is never taken for a checkpoint."""
    hidden = folder.with_name(f"{REMOVED}{folder.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    shutil.rmtree(hidden)


def saving(
    stage: Path,
    name: str,
    ranks: Ranks,
    *,
    write: Callable[[Path], None],
    write_own: Callable[[Path], None] | None = None,
) -> Path:
    """Write a folder and publish it; every process calls this, and the stage lies where all can see it.

    Args:
        write: by the first process alone.
        write_own: by every process, before that.

    Raises:
        FinetuneError: it can't be written, by this process or another; nothing of it is left.
    """
    partial = partial_folder(stage, name)
    try:
        with ranks.together(), one_line_errors(stage / name):
            if ranks.is_first:
                partial.mkdir()
        with ranks.together(), one_line_errors(stage / name):
            if write_own is not None:
                write_own(partial)
        with ranks.together(), one_line_errors(stage / name):
            if ranks.is_first:
                write(partial)
                publish(stage, name)
    except BaseException:
        if ranks.is_first:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    return stage / name


@contextmanager
def one_line_errors(what: Path) -> Iterator[None]:
    """What goes wrong on the disk, as one line.

    Raises:
        FinetuneError: what was tried can't be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors puts the system's words into its own.
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise FinetuneError(
            f"{what} can't be written: {reason[:1].lower()}{reason[1:].rstrip('.')}; the checkpoints before "
            f"it are whole: make room, and run the stage again to go on."
        ) from error


# ---------------------------------------------------------------- the manifest


def write_manifest(folder: Path) -> None:
    """SHA-256 of every file in a folder."""
    files = {name: _sha256(folder / name) for name in _files(folder)}
    write_json(folder / MANIFEST, {"format": FORMAT, "version": FORMAT_VERSION, "files": files})


def check_manifest(folder: Path) -> None:
    """Nothing of a checkpoint is read before this.

    Raises:
        FinetuneError: a file is missing, was added, or is not what was written.
    """
    try:
        manifest = parse_json(read_bounded(folder / MANIFEST, LARGEST_JSON_BYTES))
        expected = dict(manifest["files"])
        version = (manifest["format"], manifest["version"])
    except (OSError, ValueError, KeyError, TypeError):
        raise FinetuneError(f"{folder} has no whole {MANIFEST}: {_advice(folder)}.") from None
    if version != (FORMAT, FORMAT_VERSION):
        raise FinetuneError(f"{folder} is a {version[0]} of version {version[1]}, which is not known here.")
    present = set(_files(folder))
    for name in sorted(present | set(expected)):
        if name not in present:
            trouble = "is missing"
        elif name not in expected:
            trouble = "was not written with it"
        elif _sha256(folder / name) != expected[name]:
            trouble = "is not what was written"
        else:
            continue
        raise FinetuneError(f"{folder} is damaged ({name} {trouble}): {_advice(folder)}.")


def _advice(folder: Path) -> str:
    return f"remove {folder.name}, so that the stage goes on from the one before"


def _files(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    names = sorted(path.relative_to(folder).as_posix() for path in paths)
    return [name for name in names if name != MANIFEST]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


# ---------------------------------------------------------------- what Trainer would pickle


def write_json(path: Path, value: Any) -> None:
    """Write JSON values into a folder that is not published yet."""
    path.write_text(json.dumps(value) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """What `write_json` wrote."""
    return json.loads(path.read_bytes())


def read_whole(path: Path, remedy: str) -> dict[str, Any]:
    """A file of one JSON object that no manifest vouches for.

    Raises:
        FinetuneError: it is damaged; says what to do.
    """
    try:
        found = parse_json(read_bounded(path, LARGEST_JSON_BYTES))
    except (OSError, JsonError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FinetuneError(f"{path} can't be read ({reason}): {remedy}.") from None
    if not isinstance(found, dict):
        raise FinetuneError(f"{path} is damaged: {remedy}.")
    return found


def write_optimizer(folder: Path, optimizer: Any) -> None:
    """Tensors to safetensors under `<parameter's number>.<name>`, all else to JSON.

    Raises:
        FinetuneError: the optimizer keeps something else than tensors and JSON values.
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
    write_json(folder / "optimizer.json", rest)


def read_optimizer(folder: Path, optimizer: Any) -> None:
    """What `write_optimizer` wrote, into an optimizer of the same parameters."""
    rest = read_json(folder / "optimizer.json")
    state: dict[int, dict[str, Any]] = {int(index): dict(entries) for index, entries in rest["state"].items()}
    for key, value in load_file(folder / "optimizer.safetensors").items():
        index, _, name = key.partition(".")
        state[int(index)][name] = value
    optimizer.load_state_dict({"state": state, "param_groups": rest["param_groups"]})


def write_state(path: Path, owner: Any) -> None:
    """A scheduler's or a gradient scaler's state, which is JSON values.

    Raises:
        FinetuneError: it is not.
    """
    state = owner.state_dict()
    _require_json(state, type(owner).__name__)
    write_json(path, state)


def _require_json(value: Any, owner: str) -> None:
    try:
        json.dumps(value)
    except TypeError as error:
        raise FinetuneError(
            f"The state of {owner} can't be written without a pickle ({error}): train with adamw_torch and "
            f"one of the schedules of the settings."
        ) from None


def write_generators(folder: Path, rank: int) -> None:
    """The states of the global generators of Python, numpy and torch in this process."""
    version, python_state, gauss = random.getstate()
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)
    numpy_state["state"]["key"] = numpy_state["state"]["key"].tolist()
    states = {"python": [version, list(python_state), gauss], "numpy": numpy_state}
    write_json(folder / f"generators-{rank}.json", states)
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    save_file(tensors, folder / f"generators-{rank}.safetensors")


def read_generators(folder: Path, rank: int) -> None:
    """Set the states; a rank that the run did not have before keeps its own."""
    if not (folder / f"generators-{rank}.json").is_file():
        return
    states = read_json(folder / f"generators-{rank}.json")
    version, python_state, gauss = states["python"]
    random.setstate((version, tuple(python_state), gauss))
    numpy_state = states["numpy"]
    numpy_state["state"]["key"] = np.array(numpy_state["state"]["key"], dtype=np.uint32)
    np.random.set_state(numpy_state)
    tensors = load_file(folder / f"generators-{rank}.safetensors")
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])
