"""Token ids that were worked out before, a file each in the user's cache folder.

A cache is only ever a saving: a file that is damaged is worked out again, a folder that can't be written
is done without. Delete the folder at any time.
"""

import hashlib
import os
import sys
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ropewalk.store import write_atomically

FORMAT_VERSION = "1"
UNUSABLE = (OSError, RuntimeError)  # of a folder: it can't be written, or the home folder is not known


def cache_folder() -> Path:
    """`ROPEWALK_CACHE`, else `ropewalk` where this platform keeps caches."""
    if own := os.environ.get("ROPEWALK_CACHE"):
        return Path(own).expanduser()
    if sys.platform == "darwin":
        parent = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        parent = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        parent = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return parent / "ropewalk"


def cached_ids(key: str) -> list[int] | None:
    """The ids stored under a key; None where there are none, or they are damaged."""
    try:
        with safe_open(_file(key), framework="numpy") as file:
            ids = file.get_tensor("ids")
            about = file.metadata() or {}
    except (*UNUSABLE, SafetensorError, KeyError):
        return None
    if about != _about(key, ids):
        return None
    return [int(value) for value in ids]


def store_ids(key: str, ids: list[int]) -> None:
    """Keep ids for the next time, where the folder can be written."""
    array = np.array(ids, dtype=np.int32)
    try:
        _file(key).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(_file(key), save({"ids": array}, _about(key, array)))
    except UNUSABLE:
        return


def _file(key: str) -> Path:
    return cache_folder() / "tokens" / f"{key}.safetensors"


def _about(key: str, ids: np.ndarray) -> dict[str, str]:
    """What the file says of itself, with a hash that tells damage."""
    return {"version": FORMAT_VERSION, "key": key, "ids_sha256": hashlib.sha256(ids.tobytes()).hexdigest()}
